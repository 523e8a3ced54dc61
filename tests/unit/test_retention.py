# SPDX-License-Identifier: Apache-2.0
"""Which snapshots stay: the documented rules, and what follows from them."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fisk_core.model import Retention
from fisk_core.services.retention import superfluous

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
TIMES = st.lists(
    st.integers(0, 40 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes)), max_size=40
)
COUNT = st.integers(0, 5)
RETENTIONS = st.builds(Retention, COUNT, COUNT, COUNT, COUNT)


def kept(times, retention):
    return sorted(set(range(len(times))) - set(superfluous(times, retention)))


def at(*hours):
    return [START + timedelta(hours=each) for each in hours]


def test_last():
    assert kept(at(0, 1, 2, 3), Retention(last=2)) == [2, 3]
    assert kept(at(3, 0, 2, 1), Retention(last=2)) == [0, 2]


def test_hourly_keeps_the_newest_of_each_hour():
    assert kept(at(0, 0.5, 1, 1.25, 1.75, 2), Retention(hourly=2)) == [4, 5]


def test_daily():
    assert kept(at(1, 23.9, 24, 30, 49), Retention(daily=2)) == [3, 4]


def test_weeks_begin_on_monday():
    assert kept(at(-1, 0, 7 * 24 - 1, 7 * 24), Retention(weekly=9)) == [0, 2, 3]


def test_a_year_does_not_cut_a_week():
    times = [datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    assert kept(times, Retention(weekly=5)) == [1]


def test_hours_without_a_snapshot_do_not_count():
    assert kept(at(0, 1000, 2000), Retention(hourly=2)) == [1, 2]


def test_each_rule_keeps_its_own():
    times = at(0, 20, 24, 44, 48, 48.2, 48.4)
    assert kept(times, Retention(last=1, hourly=2, daily=3)) == [1, 3, 6]


@given(TIMES)
def test_no_rule_keeps_all(times):
    assert superfluous(times, Retention()) == []


@given(TIMES, RETENTIONS)
def test_the_newest_always_stays(times, retention):
    if times:
        assert max(times) in [times[index] for index in kept(times, retention)]


@given(TIMES, RETENTIONS)
def test_as_documented(times, retention):
    """The same said in another way, one snapshot at a time."""
    if retention == Retention():
        return
    keys = {
        "hourly": lambda at: at.strftime("%Y-%j-%H"),
        "daily": lambda at: at.strftime("%Y-%j"),
        "weekly": lambda at: at.strftime("%G-%V"),
    }
    order = sorted(range(len(times)), key=lambda index: (times[index], index))
    expected = set(order[max(0, len(order) - retention.last) :])
    for rule, key in keys.items():
        for place, index in enumerate(order):
            later = [key(times[each]) for each in order[place + 1 :]]
            if key(times[index]) not in later and len(set(later)) < getattr(retention, rule):
                expected.add(index)
    assert kept(times, retention) == sorted(expected)


@given(TIMES, RETENTIONS)
def test_twice_is_once(times, retention):
    left = [times[index] for index in kept(times, retention)]
    assert superfluous(left, retention) == []


@given(TIMES, RETENTIONS)
def test_as_they_come_or_all_at_the_end(times, retention):
    """It makes no difference whether it is applied after each snapshot or once."""
    here: list[datetime] = []
    for each in sorted(times):
        here.append(each)
        here = [here[index] for index in kept(here, retention)]
    every = sorted(times)
    assert here == [every[index] for index in kept(every, retention)]


@given(TIMES, RETENTIONS)
def test_never_more_than_asked_for(times, retention):
    if retention != Retention():
        most = retention.last + retention.hourly + retention.daily + retention.weekly
        assert len(kept(times, retention)) <= most

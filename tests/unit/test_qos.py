# SPDX-License-Identifier: Apache-2.0
"""Limits read from attributes; buckets that never give more than they may; turns that starve nobody."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane import qos
from fisk_core.dataplane.qos import Bucket, Buckets, Limit, Limits
from fisk_core.dataplane.turns import Turns
from fisk_core.errors import InvalidValue

READ, WRITE = nbd.CMD_READ, nbd.CMD_WRITE


def test_limits_are_read_from_attributes():
    limits = Limits.from_attributes(
        {"qos.read_iops": "500", "qos.total_bytes": "5", "qos.total_bytes_burst": "70", "colour": "red"}
    )
    assert limits.by_name == {"read_iops": Limit(500, 50), "total_bytes": Limit(5, 70)}
    assert not Limits.from_attributes({"class": "latency"})


@pytest.mark.parametrize(
    "attributes",
    [
        {"qos.iops": "5"},
        {"qos.read_iops_burst_burst": "5"},
        {"qos.": "5"},
        {"qos.read_iops": "0"},
        {"qos.read_iops": "-5"},
        {"qos.read_iops": "5.5"},
        {"qos.read_iops": ""},
        {"qos.read_iops": "\u0665"},
        {"qos.read_iops": " 5"},
        {"qos.read_iops": "9" * 5000},
        {"qos.read_iops_burst": "5"},
    ],
)
def test_what_is_no_limit_is_refused(attributes):
    with pytest.raises(InvalidValue):
        Limits.from_attributes(attributes)


def test_what_each_request_takes():
    limits = {name: Limit(1000, 1000) for name in qos.NAMES}
    buckets = Buckets(Limits(limits), 0.0)
    names = {id(bucket): name for name, bucket in buckets._buckets.items()}

    def drawn(command, length):
        return {names[id(bucket)]: amount for bucket, amount in buckets.draws(command, length)}

    assert drawn(READ, 9) == {"read_iops": 1, "total_iops": 1, "read_bytes": 9, "total_bytes": 9}
    assert drawn(nbd.CMD_CACHE, 9) == drawn(READ, 9)
    assert drawn(WRITE, 9) == {"write_iops": 1, "total_iops": 1, "write_bytes": 9, "total_bytes": 9}
    assert drawn(nbd.CMD_TRIM, 9) == drawn(nbd.CMD_WRITE_ZEROES, 9) == {"write_iops": 1, "total_iops": 1}
    assert drawn(nbd.CMD_FLUSH, 0) == drawn(nbd.CMD_BLOCK_STATUS, 9) == drawn(nbd.CMD_DISC, 0) == {}
    assert drawn(READ, 0xFFFFFFFF)["read_bytes"] == nbd.MAX_REQUEST


rates = st.integers(1, 10_000)
steps = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3000)), min_size=1, max_size=60)


@given(rate=rates, burst=st.integers(1, 2000), steps=steps)
def test_no_interval_passes_more_than_its_share(rate, burst, steps):
    bucket, now, passed = Bucket(Limit(rate, burst), 0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        bucket.refill(now)
        draws = [(bucket, amount)]
        if not qos.delay(draws):
            qos.take(draws)
            passed.append((now, amount))
    for first in range(len(passed)):
        total, largest = 0, burst
        for at, amount in passed[first:]:
            total, largest = total + amount, max(largest, amount)
            assert total <= rate * (at - passed[first][0]) + largest + 1e-6 * total


@given(rate=rates, burst=st.integers(1, 2000), amount=st.integers(1, 5000), before=st.integers(1, 5000))
def test_waiting_as_long_as_told_is_enough(rate, burst, amount, before):
    bucket = Bucket(Limit(rate, burst), 0.0)
    qos.take([(bucket, before)])
    bucket.refill(bucket.delay(amount) + 1e-9)
    assert bucket.delay(amount) < 1e-6


def test_more_than_the_bucket_holds_passes_when_it_is_full_and_is_paid_off():
    bucket = Bucket(Limit(100, 10), 0.0)
    draws = [(bucket, 60)]
    assert not qos.delay(draws)
    qos.take(draws)
    assert bucket.delay(1) == pytest.approx(0.51)
    assert qos.delay(draws) == pytest.approx(0.6)


def test_other_limits_keep_savings_that_fit_and_debts_in_seconds():
    bucket = Bucket(Limit(100, 50), 0.0)
    bucket.change(Limit(200, 20), 0.0)
    assert bucket.level == 20
    qos.take([(bucket, 120)])
    bucket.change(Limit(20, 20), 0.0)
    assert bucket.level == pytest.approx(-10)
    buckets = Buckets(Limits({"read_iops": Limit(10, 5), "write_iops": Limit(10, 5)}), 0.0)
    qos.take(buckets.draws(READ, 1) * 5)
    buckets.change(Limits({"read_iops": Limit(10, 5), "total_iops": Limit(10, 5)}), 0.0)
    assert qos.delay(buckets.draws(READ, 1)) == pytest.approx(0.1)
    assert not qos.delay(buckets.draws(WRITE, 1))


class Client:
    """Has requests (command, length) lying ready; answers are noted."""

    def __init__(self, buckets, *requests):
        self.start, self.buckets, self.requests, self.granted = 0.0, buckets, list(requests), []

    def wants(self):
        return self.buckets.draws(*self.requests[0]) if self.requests else None

    def grant(self):
        self.granted.append(self.requests.pop(0))


def run(turns, clients, seconds, done=lambda: False):
    """Serve for so long as time is told; who got something asks again."""
    now = 0.0
    for client in clients:
        turns.enter(client)
    while now < seconds and not done():
        served, soonest = turns.serve(now)
        for client in served:
            if client.requests:
                turns.enter(client)
        if not served:
            if soonest is None:
                return now
            now += soonest + 1e-9
    return now


def test_a_deep_queue_does_not_starve_a_short_one():
    buckets = Buckets(Limits({"total_iops": Limit(100, 10)}), 0.0)
    turns = Turns(buckets)
    deep = Client(buckets, *[(READ, 4096)] * 1000)
    short = Client(buckets, *[(READ, 4096)] * 50)
    run(turns, [deep, short], 100, lambda: not short.requests)
    assert abs(len(deep.granted) - 50) <= 2


def test_shares_are_of_what_is_scarce():
    """One sends large requests, the other small ones: each gets half of the bytes."""
    buckets = Buckets(Limits({"total_bytes": Limit(1 << 20, 64 << 10)}), 0.0)
    turns = Turns(buckets)
    large = Client(buckets, *[(READ, 64 << 10)] * 1000)
    small = Client(buckets, *[(READ, 4 << 10)] * 320)
    run(turns, [large, small], 1000, lambda: not small.requests)
    assert abs(len(large.granted) - 20) <= 2


def test_small_requests_do_not_starve_a_large_one():
    buckets = Buckets(Limits({"total_bytes": Limit(1000, 1000)}), 0.0)
    turns = Turns(buckets)
    large = Client(buckets, (READ, 1000))
    small = Client(buckets, *[(READ, 10)] * 10_000)
    qos.take([(next(iter(buckets._buckets.values())), 500)])
    run(turns, [small, large], 1000, lambda: not large.requests)
    assert not large.requests
    assert len(small.granted) <= 110


def test_what_waits_for_one_bucket_does_not_hold_up_another():
    buckets = Buckets(Limits({"write_iops": Limit(1, 1), "read_iops": Limit(1000, 1000)}), 0.0)
    turns = Turns(buckets)
    writer = Client(buckets, *[(WRITE, 512)] * 3)
    reader = Client(buckets, *[(READ, 512)] * 500)
    assert run(turns, [writer, reader], 1.5, lambda: not reader.requests) == 0.0


def test_who_comes_back_has_saved_up_nothing():
    buckets = Buckets(Limits({"total_iops": Limit(100, 1)}), 0.0)
    turns = Turns(buckets)
    steady = Client(buckets, *[(READ, 1)] * 10_000)
    run(turns, [steady], 10)
    assert len(steady.granted) > 900
    newcomer = Client(buckets, *[(READ, 1)] * 50)
    before = len(steady.granted)
    turns.enter(newcomer)
    now = 10.0
    while newcomer.requests:
        served, soonest = turns.serve(now)
        for client in served:
            if client.requests:
                turns.enter(client)
        now += 0 if served else soonest + 1e-9
    assert abs(len(steady.granted) - before - 50) <= 2


requests = st.lists(
    st.tuples(st.sampled_from([READ, WRITE, nbd.CMD_TRIM, nbd.CMD_FLUSH]), st.integers(1, 3000)), max_size=15
)
some_limits = st.dictionaries(
    st.sampled_from(qos.NAMES), st.builds(Limit, st.integers(1, 5000), st.integers(1, 2000))
)


@settings(max_examples=60)
@given(limits=some_limits, queues=st.lists(requests, min_size=1, max_size=4))
def test_everybody_is_served_in_the_end_and_in_order(limits, queues):
    buckets = Buckets(Limits(limits), 0.0)
    turns = Turns(buckets)
    clients = [Client(buckets, *queue) for queue in queues]
    run(turns, clients, 1e9)
    assert [client.granted for client in clients] == queues

# SPDX-License-Identifier: Apache-2.0
"""Schedules: kept in the catalog, run once by whoever is there, and what they took goes when it is due."""

import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, InvalidValue, LimitExceeded, NotFound
from fisk_core.model import Retention
from fisk_core.services import events, scheduler, schedules
from fisk_core.services.scheduler import Scheduler
from tests.engines import make_volume, read, write

HOUR = 3600


@pytest.fixture
def clock(monkeypatch):
    """The time of schedules, moved by hand; Fisks are made at that time too."""

    class Clock:
        now = datetime(2030, 1, 7, 12, 0)

        def __call__(self, _):
            return self.now

        def forward(self, **amount):
            self.now += timedelta(**amount)

    made = Clock()
    monkeypatch.setattr(schedules, "clock", made)
    real = schedules.fisks.new_row
    monkeypatch.setattr(
        schedules.fisks, "new_row", lambda **values: {**real(**values), "created_at": made.now}
    )
    return made


@pytest.fixture
def volume(engine):
    return make_volume(engine, content=b"one").id


def run_due(engine):
    return [schedules.run(engine, each) for each in schedules.due(engine)[0]]


def snapshots(engine):
    return [fisk.name for fisk in engine.list(role="snapshot")]


# The catalog


def test_create_find_change_delete(engine, volume, clock):
    made = schedules.create(
        engine, "volume", HOUR, retention=Retention(last=3), prefix="hourly", expire=9 * HOUR
    )
    assert schedules.get(engine, made.id) == made
    assert made.next_run == clock.now.replace(tzinfo=UTC)
    assert schedules.select(engine) == schedules.select(engine, "volume") == [made]
    changed = schedules.change(engine, made.id, retention=Retention(daily=1), enabled=False)
    assert (changed.retention, changed.enabled, changed.next_run) == (
        Retention(daily=1),
        False,
        made.next_run,
    )
    assert schedules.get(engine, made.id) == changed
    for _ in range(2):
        schedules.delete(engine, made.id)
    with pytest.raises(NotFound):
        schedules.get(engine, made.id)


def test_the_same_id_is_the_same_schedule(engine, volume):
    schedule_id = str(uuid.uuid4())
    made = schedules.create(engine, "volume", HOUR, id=schedule_id)
    assert schedules.create(engine, "volume", HOUR, id=schedule_id) == made
    with pytest.raises(AlreadyExists):
        schedules.create(engine, "volume", 2 * HOUR, id=schedule_id)


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 59},
        {"interval": 367 * 24 * HOUR},
        {"expire": 0},
        {"prefix": "no spaces"},
        {"prefix": "x" * 65},
        {"retention": Retention(last=-1)},
        {"retention": Retention(weekly=10_001)},
        {"id": "x"},
    ],
)
def test_what_makes_no_sense(engine, volume, options):
    with pytest.raises(InvalidValue):
        schedules.create(engine, "volume", **{"interval": HOUR, **options})
    assert schedules.select(engine) == []


def test_refused(engine, volume, monkeypatch):
    engine.snapshot("volume", "snap")
    with pytest.raises(InvalidValue, match="frozen"):
        schedules.create(engine, "snap", HOUR)
    with pytest.raises(NotFound):
        schedules.create(engine, "nobody", HOUR)
    made = schedules.create(engine, "volume", HOUR)
    with pytest.raises(InvalidValue):
        schedules.change(engine, made.id, fisk_id="x")
    with pytest.raises(InvalidValue):
        schedules.change(engine, made.id, interval=1)
    monkeypatch.setattr(schedules, "MAX_SCHEDULES", 1)
    with pytest.raises(LimitExceeded):
        schedules.create(engine, "volume", HOUR)


def test_schedules_go_with_their_fisk(engine, volume):
    schedules.create(engine, "volume", HOUR)
    engine.delete("volume")
    assert schedules.select(engine) == []


# Running


def test_a_run_takes_a_snapshot(engine, volume, clock):
    made = schedules.create(engine, "volume", HOUR, expire=60, expendable=True)
    (taken,) = run_due(engine)
    write(engine, "volume", 0, b"two")
    assert taken.name == "auto-volume-20300107T120000Z"
    assert taken.role == "snapshot"
    assert taken.attributes == {
        "fisk:schedule": made.id,
        "expires": "2030-01-07T12:01:00Z",
        "expendable": "true",
    }
    assert read(engine, taken.name, 0, 3) == b"one"
    assert run_due(engine) == []


def test_runs_keep_to_their_raster(engine, volume, clock):
    schedules.create(engine, "volume", HOUR)
    clock.forward(minutes=7)
    assert len(run_due(engine)) == 1
    (schedule,) = schedules.select(engine)
    assert schedule.next_run == datetime(2030, 1, 7, 13, 0, tzinfo=UTC)


def test_a_start_in_the_future(engine, volume, clock):
    schedules.create(engine, "volume", HOUR, start=datetime(2030, 1, 8, 3, 0))
    assert run_due(engine) == []
    clock.forward(hours=15)
    assert len(run_due(engine)) == 1


def test_what_was_missed_is_made_up_for_once(engine, volume, clock):
    made = schedules.create(engine, "volume", HOUR)
    clock.forward(hours=3, minutes=30)
    assert len(run_due(engine)) == 1
    (event,) = [each for each in events.read(engine, 0) if each.kind == "schedule.missed"]
    assert (event.fisk_id, event.data) == (volume, {"schedule": made.id, "missed": 3})
    assert schedules.get(engine, made.id).next_run == datetime(2030, 1, 7, 16, 0, tzinfo=UTC)


def test_one_that_is_disabled_does_not_run(engine, volume, clock):
    made = schedules.create(engine, "volume", HOUR, enabled=False)
    clock.forward(hours=3, minutes=30)
    assert run_due(engine) == []
    schedules.change(engine, made.id, enabled=True)
    assert run_due(engine) == []  # what it did not want then it does not want now
    clock.forward(minutes=30)
    assert len(run_due(engine)) == 1


def test_a_run_of_many_has_one_snapshot(engine, volume, clock):
    schedules.create(engine, "volume", HOUR)
    clock.forward(hours=2)
    (schedule,), _ = schedules.due(engine)
    with Engine.open(engine.home.path) as other, ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(schedules.run, each, schedule) for each in (engine, other) * 4]
        assert sum(each.result() is not None for each in runs) == 1
    assert snapshots(engine) == ["auto-volume-20300107T140000Z"]
    assert len([each for each in events.read(engine, 0) if each.kind == "schedule.missed"]) == 1
    assert schedules.select(engine)[0].next_run == datetime(2030, 1, 7, 15, 0, tzinfo=UTC)


def test_a_run_is_the_same_run_also_later(engine, volume, clock):
    """Its snapshot keeps the name of the first try, also if it was given another role or name since."""
    schedules.create(engine, "volume", HOUR)
    (schedule,), _ = schedules.due(engine)
    taken = schedules._take(engine, schedule)
    engine.set(taken.id, name="mine", role="image")
    clock.forward(minutes=5)
    engine.set("volume", name="renamed")
    assert schedules.run(engine, schedule).id == taken.id
    assert [fisk.name for fisk in engine.list()] == ["renamed", "mine"]
    assert schedules.run(engine, schedule) is None


def test_two_schedules_with_one_prefix(engine, volume, clock):
    for _ in range(2):
        schedules.create(engine, "volume", HOUR)
    assert len({fisk.name for fisk in run_due(engine)}) == 2


def test_long_names_are_cut(engine, clock):
    make_volume(engine, "v" * 255)
    schedules.create(engine, "v" * 255, HOUR, prefix="p" * 64)
    schedules.create(engine, "v" * 255, HOUR, prefix="p" * 64)
    assert all(len(fisk.name) <= 255 for fisk in run_due(engine))


def test_a_fisk_that_goes_before_its_run(engine, volume, clock):
    schedules.create(engine, "volume", HOUR)
    found, _ = schedules.due(engine)
    engine.delete("volume")
    assert [schedules.run(engine, each) for each in found] == [None]


# Retention and expiry


def test_retention(engine, volume, clock):
    schedules.create(engine, "volume", HOUR, retention=Retention(last=2, daily=2))
    for _ in range(30):
        run_due(engine)
        clock.forward(hours=1)
    stamps = [name.rpartition("-")[2] for name in snapshots(engine)]
    assert stamps == ["20300107T230000Z", "20300108T160000Z", "20300108T170000Z"]


def test_only_a_schedules_own_snapshots_go(engine, volume, clock):
    schedules.create(engine, "volume", HOUR, retention=Retention(last=1))
    engine.snapshot("volume", "by-hand")
    (first,) = run_due(engine)
    engine.clone(first.name, "clone", attributes=dict(first.attributes))
    clock.forward(hours=1)
    (second,) = run_due(engine)
    engine.set(second.name, role="image")  # promoted: it is kept now
    clock.forward(hours=1)
    (third,) = run_due(engine)
    left = {fisk.name for fisk in engine.list()}
    assert left == {"volume", "by-hand", "clone", second.name, third.name}


def test_expiry(engine, volume, clock):
    past = {"expires": "2030-01-07T11:59:59Z"}
    engine.snapshot("volume", "old", attributes=past)
    engine.snapshot("volume", "new", attributes={"expires": "2030-01-07T14:00:00+01:00"})
    engine.snapshot("volume", "image", role="image", attributes=past)
    engine.clone("volume", "clone", role="snapshot", attributes=past)
    assert schedules.expired(engine) == ["old"]
    clock.forward(hours=1)
    assert schedules.expired(engine) == ["new"]
    assert {fisk.name for fisk in engine.list()} == {"volume", "image", "clone"}


def test_a_snapshot_in_use_stays_until_it_is_not(engine, volume, clock):
    engine.snapshot("volume", "old", attributes={"expires": "2030-01-01T00:00:00Z"})
    with engine.open_disk("old"):
        assert schedules.expired(engine) == []
    assert schedules.expired(engine) == ["old"]


@pytest.mark.parametrize("attributes", [{"expires": "tomorrow"}, {"expendable": "perhaps"}])
def test_attributes_that_would_not_be_understood_later(engine, volume, attributes):
    with pytest.raises(InvalidValue):
        engine.snapshot("volume", "odd", attributes=attributes)


def test_a_pool_that_cannot_be_looked_at_is_told_once(
    engine, volume, monkeypatch, expect_logs, logged_warnings
):
    engine.create_pool("broken")

    def failing(_, pool, *__):
        if pool == "broken":
            raise NotFound("gone")

    monkeypatch.setattr(scheduler.expendable, "relieve", failing)
    expect_logs("could not look after pool broken: gone")
    runner = Scheduler(engine)
    for _ in range(3):
        runner.tick()
    assert len(logged_warnings.lines) == 1


def test_an_expiry_nobody_understands_removes_nothing(engine, volume):
    engine.snapshot("volume", "odd")
    with engine.catalog.change() as conn:
        schedules.fisks.set_attributes(conn, engine.get("odd").id, {"expires": "tomorrow"})
    assert schedules.expired(engine) == []


# The thread


def test_the_thread(engine, volume, monkeypatch):
    monkeypatch.setattr(scheduler, "LONGEST_PAUSE", 0.02)
    runner = Scheduler(engine)
    runner.start()
    try:
        schedules.create(engine, "volume", 60)
        for event in events.follow(engine, 0):
            if event.kind == "fisk.created" and event.data["role"] == "snapshot":
                break
    finally:
        runner.stop()
        runner.stop()
    assert len(snapshots(engine)) == 1


def test_one_bad_run_does_not_stop_the_others(engine, volume, monkeypatch, expect_logs, logged_warnings):
    make_volume(engine, "other")
    for name in ("volume", "other"):
        schedules.create(engine, name, 60)
    real = engine.snapshot

    def failing(ref, *arguments, **options):
        if ref == volume:
            raise InvalidValue("no")
        return real(ref, *arguments, **options)

    expect_logs("took no snapshot yet: no")
    runner = Scheduler(engine)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "snapshot", failing)
        for _ in range(3):
            runner.tick()
    assert [name.split("-")[1] for name in snapshots(engine)] == ["other"]
    assert len(logged_warnings.lines) == 1
    runner.tick()
    assert sorted(name.split("-")[1] for name in snapshots(engine)) == ["other", "volume"]


_CHILD = """
import os, signal, sys
from pathlib import Path
from fisk_core.catalog import schedules as rows
from fisk_core.engine import Engine
from fisk_core.services import schedules
from fisk_core.services.scheduler import Scheduler

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

with Engine.open(Path(sys.argv[1])) as engine:
    if sys.argv[2] == "before":
        engine.snapshot = die
    else:
        rows.move_on = die
    Scheduler(engine).tick()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_before_or_after_its_snapshot(engine, volume, when):
    made = schedules.create(engine, "volume", HOUR)
    command = [sys.executable, "-c", _CHILD, str(engine.home.path), when]
    for _ in range(2):
        assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
        assert len(snapshots(engine)) == (when == "after")
    Scheduler(engine).tick()
    (taken,) = engine.list(role="snapshot")
    assert taken.attributes["fisk:schedule"] == made.id
    assert schedules.get(engine, made.id).next_run == made.next_run + timedelta(hours=1)
    Scheduler(engine).tick()
    assert len(snapshots(engine)) == 1

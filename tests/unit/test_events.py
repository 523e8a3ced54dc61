# SPDX-License-Identifier: Apache-2.0
"""Events: one for each change, in its transaction and its order; followed at once, kept for a while."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fisk_core.catalog import schema
from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists
from fisk_core.services import events
from tests.engines import BLOCK, MIB, make_volume, serving


def told(engine, after=0):
    return [(event.kind, event.fisk_id) for event in events.read(engine, after)]


def test_each_verb_tells(engine):
    volume = make_volume(engine, content=b"x")
    snap = engine.snapshot("volume", "snap", attributes={"a": "b"})
    clone = engine.clone("snap", "clone")[0]
    engine.set("clone", name="renamed", attributes={"k": "v"})
    engine.resize("volume", 2 * MIB)
    engine.resize("volume", MIB, shrink=True)
    engine.revert("volume", "snap")
    engine.set("renamed", frozen=True)
    engine.delete("renamed")
    assert told(engine) == [
        ("fisk.created", volume.id),
        ("fisk.created", snap.id),
        ("fisk.created", clone.id),
        ("fisk.changed", clone.id),
        ("fisk.resized", volume.id),
        ("fisk.resized", volume.id),
        ("fisk.reverted", volume.id),
        ("fisk.frozen", clone.id),
        ("fisk.deleted", clone.id),
    ]
    data = [event.data for event in events.read(engine, 0)]
    assert data[1] == {"name": "snap", "role": "snapshot", "state": "frozen", "parent_id": volume.id}
    assert data[3] == {"name": "renamed", "attributes": ["k"]}
    assert [each["size"] for each in data[4:7]] == [2 * MIB, MIB, MIB]
    assert data[8] == {"names": ["renamed"]}


def test_a_served_fisk_tells_too(engine):
    make_volume(engine, content=b"x")
    engine.snapshot("volume", "snap")
    last = events.latest(engine)
    with serving(engine, "volume"):
        engine.resize("volume", MIB - BLOCK, shrink=True)
        engine.revert("volume", "snap")
    assert [kind for kind, _ in told(engine, last)] == ["fisk.resized", "fisk.reverted"]


def test_an_import_tells_when_it_is_there(engine, home):
    (home / "image").write_bytes(b"x" * 512)
    made = engine.import_image(home / "image", "image")
    with engine.begin_build("aborted", size=MIB):
        pass
    assert told(engine) == [("fisk.created", made.id)]


def test_many_clones_are_few_events(engine):
    make_volume(engine)
    last = events.latest(engine)
    ids = [fisk.id for fisk in engine.clone("volume", "c", count=1200)]
    found = events.read(engine, last)
    assert [event.fisk_id for event in found] == [None] * 3
    assert [each for event in found for each in event.data["ids"]] == ids


def test_what_fails_tells_nothing(engine):
    make_volume(engine)
    last = events.latest(engine)
    with pytest.raises(AlreadyExists):
        engine.create("volume", MIB)
    assert told(engine, last) == []


def test_numbers_rise_in_the_order_of_changes(engine):
    with Engine.open(engine.home.path) as other, ThreadPoolExecutor(4) as threads:
        for number in range(12):
            threads.submit((engine, other)[number % 2].create, f"v{number}", MIB)
    found = events.read(engine, 0)
    assert len(found) == 12
    assert [event.num for event in found] == sorted(event.num for event in found)


def test_reading_in_parts(engine):
    for number in range(5):
        engine.create(f"v{number}", MIB)
    first = events.read(engine, 0, 2)
    rest = events.read(engine, first[-1].num, 100)
    assert [event.data["name"] for event in first + rest] == [f"v{number}" for number in range(5)]
    assert events.latest(engine) == rest[-1].num


# Following


def test_following_sees_what_comes(engine, monkeypatch):
    """This process's changes wake the follower: it need not look by itself."""
    monkeypatch.setattr(events, "POLL_SECONDS", 600.0)
    engine.create("before", MIB)
    follower, started = events.follow(engine, events.latest(engine)), threading.Event()

    def listen():
        started.set()
        return [next(follower).data["name"] for _ in range(2)]

    with ThreadPoolExecutor() as threads:
        heard = threads.submit(listen)
        started.wait()
        engine.create("a", MIB)
        engine.create("b", MIB)
        assert heard.result(30) == ["a", "b"]


def test_following_sees_other_processes(engine, monkeypatch):
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    follower = events.follow(engine, 0)
    with Engine.open(engine.home.path) as other, ThreadPoolExecutor() as threads:
        heard = threads.submit(next, follower)
        other.create("elsewhere", MIB)
        assert heard.result(30).data["name"] == "elsewhere"


def test_following_ends(engine, monkeypatch):
    monkeypatch.setattr(events, "POLL_SECONDS", 600.0)
    stop = threading.Event()
    with ThreadPoolExecutor() as threads:
        heard = threads.submit(lambda: list(events.follow(engine, stop=stop)))
        stop.set()
        engine.catalog.changes.tell()
        assert heard.result(30) == []


# Keeping


def age(engine, up_to, days):
    table = schema.events
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    with engine.catalog.change() as conn:
        conn.execute(table.update().where(table.c.num <= up_to).values(at=then))


def test_old_ones_go(engine):
    for number in range(5):
        engine.create(f"v{number}", MIB)
    age(engine, 3, days=8)
    events.trim(engine)
    assert [event.num for event in events.read(engine, 0)] == [4, 5]


def test_only_so_many_are_kept(engine, monkeypatch):
    monkeypatch.setattr(events, "KEPT", 3)
    monkeypatch.setattr(events, "_SLACK", 0)
    for number in range(6):
        engine.create(f"v{number}", MIB)
    events.trim(engine)
    assert [event.num for event in events.read(engine, 0)] == [4, 5, 6]


def test_trimming_changes_nothing_most_times(engine):
    engine.create("v", MIB)
    version = engine.catalog.version()
    events.trim(engine)
    assert engine.catalog.version() == version


def test_every_kind_that_is_told_is_listed(engine):
    make_volume(engine, content=b"x")
    engine.delete("volume")
    assert {event.kind for event in events.read(engine, 0)} <= set(events.KINDS)

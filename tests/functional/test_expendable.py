# SPDX-License-Identifier: Apache-2.0
"""A pool on a small file system runs full: expendable snapshots make room, and nothing else does."""

import os
from contextlib import contextmanager

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import NoSpace
from fisk_core.services import events, expendable
from fisk_core.services.scheduler import Scheduler
from tests.engines import read
from tests.filesystems import mounted

MIB = 1 << 20
SIZE = 64 * MIB
EXPENDABLE = {"expendable": "true"}


@contextmanager
def small(home, tmp_path):
    """Give an engine with a pool ``small`` on a file system of 64 MiB."""
    with mounted("ext4", SIZE, tmp_path) as path, Engine.open(home) as engine:
        engine.create_pool("small", options={"path": str(path / "pool")})
        yield engine


def fill(engine, ref, offset, length):
    with engine.open_disk(ref, writable=True) as disk:
        for at in range(offset, offset + length, MIB):
            disk.write(at, os.urandom(MIB))


def pool_events(engine):
    return [event.kind for event in events.read(engine, 0) if event.kind.startswith("pool.")]


def generations(engine, count, **options):
    """Overwrite 5 MiB of a volume and take a snapshot, again and again: each alone has its 5 MiB."""
    for number in range(count):
        fill(engine, "volume", 0, 5 * MIB)
        engine.snapshot("volume", f"s{number}", **options)


def names(engine):
    return {fisk.name for fisk in engine.list(pool="small")}


def test_the_oldest_go_and_no_more_than_needed(home, tmp_path):
    with small(home, tmp_path) as engine:
        engine.create("volume", 32 * MIB, pool="small")
        generations(engine, 7, attributes=EXPENDABLE)
        used = expendable.used_percent(engine, "small")
        gone = expendable.relieve(engine, "small", high=used - 1, low=used - 10)
        assert gone == ["s0", "s1"]
        assert expendable.used_percent(engine, "small") < used - 10
        assert names(engine) == {"volume", *(f"s{number}" for number in range(2, 7))}
        assert pool_events(engine) == ["pool.nearly_full", "pool.relieved"]
        assert engine.check().ok


def test_what_is_not_expendable_stays(home, tmp_path):
    with small(home, tmp_path) as engine:
        engine.create("volume", 32 * MIB, pool="small", attributes=EXPENDABLE)
        generations(engine, 3)
        engine.snapshot("volume", "image", role="image", attributes=EXPENDABLE)
        engine.clone("s0", "clone", role="snapshot", attributes=EXPENDABLE)
        engine.snapshot("volume", "no", attributes={"expendable": "false"})
        engine.create("elsewhere", MIB)
        engine.snapshot("elsewhere", "other-pool", attributes=EXPENDABLE)
        before = names(engine)
        assert expendable.relieve(engine, "small", high=0.0, low=0.0) == []
        assert names(engine) == before
        assert engine.get("other-pool")
        assert pool_events(engine) == ["pool.nearly_full"]


def test_blocks_that_others_have_too_do_not_count(home, tmp_path):
    """Snapshots whose blocks all live on in a clone go one after the other, and the clone is whole."""
    with small(home, tmp_path) as engine:
        engine.create("volume", 32 * MIB, pool="small")
        generations(engine, 2, attributes=EXPENDABLE)
        (clone,) = engine.clone("s1", "clone")
        data = read(engine, "clone", 0, 5 * MIB)
        used = expendable.used_percent(engine, "small")
        assert expendable.relieve(engine, "small", high=used, low=0.0) == ["s0", "s1"]
        assert read(engine, clone.id, 0, 5 * MIB) == data
        assert expendable.used_percent(engine, "small") < used
        assert engine.check().ok


def test_one_in_use_is_passed_over(home, tmp_path):
    with small(home, tmp_path) as engine:
        engine.create("volume", 32 * MIB, pool="small")
        generations(engine, 3, attributes=EXPENDABLE)
        used = expendable.used_percent(engine, "small")
        with engine.open_disk("s0"):
            assert expendable.relieve(engine, "small", high=used, low=used - 2) == ["s1"]


def test_it_is_told_once(home, tmp_path):
    with small(home, tmp_path) as engine, Engine.open(home) as other:
        engine.create("volume", 32 * MIB, pool="small")
        fill(engine, "volume", 0, 20 * MIB)
        used = expendable.used_percent(engine, "small")
        for each in (engine, other, engine):
            expendable.relieve(each, "small", high=used, low=used - 5)
        assert pool_events(engine) == ["pool.nearly_full"]
        fill(engine, "volume", 0, 1 * MIB)
        expendable.relieve(engine, "small", high=99.0, low=used - 5)  # between the marks: nothing to tell
        assert pool_events(engine) == ["pool.nearly_full"]
        engine.delete("volume")
        for each in (other, engine):
            expendable.relieve(each, "small", high=used, low=used - 5)
        assert pool_events(engine) == ["pool.nearly_full", "pool.relieved"]


def test_a_pool_that_is_really_full(home, tmp_path):
    """The scheduler makes room where not a block more could be written."""
    with small(home, tmp_path) as engine:
        engine.create("volume", 64 * MIB, pool="small")
        with pytest.raises(NoSpace):
            generations(engine, 20, attributes=EXPENDABLE)
        before = len(engine.list(role="snapshot"))
        Scheduler(engine, high_water=90.0, low_water=80.0).tick()
        assert expendable.used_percent(engine, "small") < 80.0
        assert 0 < len(engine.list(role="snapshot")) < before
        fill(engine, "volume", 0, 5 * MIB)
        assert engine.check().ok

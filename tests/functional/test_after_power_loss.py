# SPDX-License-Identifier: Apache-2.0
"""What cuts of recordings found, each made by hand: it needs neither repair nor anybody's help."""

import os

import pytest

from fisk_core.blockmap import create_log
from fisk_core.catalog import fisks, maps
from fisk_core.engine import Engine, access
from fisk_core.engine.freezing import new_period
from fisk_core.errors import AlreadyExists
from fisk_core.pools.base import Kind
from fisk_core.pools.file import FilePool
from tests.engines import BLOCK, make_volume, read, write


@pytest.fixture
def engine(tmp_path):
    with Engine.open(tmp_path / "home") as opened:
        yield opened


def test_the_default_pool_is_taken_up_when_only_the_catalog_does_not_know_it(engine):
    pool = FilePool.create("default", {"path": str(engine.home.pool("default"))})
    make_volume(engine, content=b"x" * 1000)
    assert engine.pool("default").id == pool.id
    assert read(engine, "volume", 0, 1000) == b"x" * 1000


def test_it_is_not_when_something_is_in_it(engine):
    pool = FilePool.create("default", {"path": str(engine.home.pool("default"))})
    name = "00000000-0000-4000-8000-000000000000"
    pool.create_device(Kind.LAYER, name).close()
    with pytest.raises(AlreadyExists, match="rescan"):
        make_volume(engine)
    assert list(pool.list_devices(Kind.LAYER)) == [name]


def test_a_switch_to_a_smaller_size_that_was_interrupted_is_no_error(engine, expect_logs):
    make_volume(engine, content=b"x" * 8 * BLOCK)
    record = engine.find("volume")
    row = new_period(record, record.map_id, 4 * BLOCK)
    create_log(engine.open_pool(), access.header_of(record, row["id"], row["base"], row["base_size"]))
    with engine.catalog.change() as conn:
        maps.insert_maps(conn, [row])
        maps.mark_opened(conn, row["id"], row["pool_id"])
        fisks.update_fisk(conn, record.id, next_map=row["id"])
    report = engine.check()
    assert report.ok
    assert [each.kind for each in report.warnings] == ["interrupted"]
    expect_logs("finding out how an interrupted operation ended")
    write(engine, "volume", 0, b"y")
    assert read(engine, "volume", 0, 8 * BLOCK) == b"y" + b"x" * (8 * BLOCK - 1)
    assert engine.check().problems == []


def test_a_new_home_and_a_new_pool_are_durable_in_what_they_are_in(tmp_path, monkeypatch):
    synced = set()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    with Engine.open(tmp_path / "a" / "home") as engine:
        make_volume(engine)
        pool = engine.home.pool("default")
    for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "home", pool.parent, pool):
        assert str(path) in synced


def test_the_log_of_before_a_revert_is_gone_for_good_before_the_header_tells_of_it(engine, monkeypatch):
    make_volume(engine, content=b"x" * BLOCK)
    engine.snapshot("volume", "snap")
    write(engine, "volume", 0, b"y")
    engine.settle()
    old = engine.find("volume").map_id
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    engine.revert("volume", "snap")
    engine.settle()
    pool = engine.home.pool("default")
    assert synced.index(str(pool / "logs" / old[:2])) < synced.index(str(pool / "blobs" / "fisks"))

# SPDX-License-Identifier: Apache-2.0
"""What damaging every kind of file brought up: each is noticed and named."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fisk_core.blockmap import LogWriter, create_log, ends, load_map, read_log_header
from fisk_core.blockmap.log import LogHeader, encode_changes
from fisk_core.config import Home
from fisk_core.dataplane import routes
from fisk_core.dataplane.routes import Route
from fisk_core.engine import Engine
from fisk_core.errors import Corrupt
from fisk_core.pools import Kind
from fisk_core.pools.headers import read_header
from fisk_core.supervision.exports import Exports
from tests.disks import TINY, make_pool, new_id
from tests.engines import MIB, make_volume, read, write


@pytest.fixture
def engine(tmp_path):
    with Engine.open(tmp_path) as opened:
        for name in ("a", "b"):
            make_volume(opened, name, MIB, name.encode() * 4096)
            opened.snapshot(name, f"{name}-s")
        opened.settle()
        yield opened


def test_a_map_with_the_content_of_anothers_is_named(engine):
    pool, (mine, other) = engine.open_pool(), (engine.get("a-s").map_id, engine.get("b-s").map_id)
    pool.put_blob(f"maps/{mine}", [pool.get_blob(f"maps/{other}")])
    with pytest.raises(Corrupt, match=f"maps/{mine} says it is the map {other}"):
        read(engine, "a-s", 0, 1)
    assert "blob" in {each.kind for each in engine.check().problems}


def test_a_header_with_the_content_of_anothers_is_named(engine):
    pool, (mine, other) = engine.open_pool(), (engine.get("a").id, engine.get("b").id)
    pool.put_blob(f"fisks/{mine}", [pool.get_blob(f"fisks/{other}")])
    with pytest.raises(Corrupt, match=f"fisks/{mine} says it is of Fisk {other}"):
        read_header(pool, mine)
    assert [each.kind for each in engine.check().problems] == ["header"]


@pytest.fixture
def log(tmp_path):
    """A log of three batches that was closed: (pool, map id, its content after each batch)."""
    pool, map_id = make_pool(tmp_path / "pool"), new_id()
    create_log(pool, LogHeader(map_id, None, new_id(), MIB, TINY))
    contents = []
    for batch in range(3):
        writer = LogWriter(pool, map_id)
        writer.append(encode_changes([(batch, 1)], 1, TINY))
        writer.close()
        contents.append(path_of(pool, map_id).read_bytes())
    return pool, map_id, contents


def path_of(pool, map_id) -> Path:
    found = pool.locate(Kind.LOG, map_id)
    assert found is not None
    return found


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_log_that_lost_batches_is_named(log, left):
    pool, map_id, contents = log
    data = contents[left - 1] if left else contents[0][:512]
    for each in (data, data + bytes(len(contents[2]) - len(data))):
        path_of(pool, map_id).write_bytes(each)
        with pytest.raises(Corrupt, match=f"{map_id} ends behind batch {left}; when it was closed it had"):
            load_map(pool, map_id, MIB)
        with pytest.raises(Corrupt, match=map_id):
            LogWriter(pool, map_id)
    path_of(pool, map_id).write_bytes(contents[2])
    load_map(pool, map_id, MIB).close()


@pytest.mark.parametrize("data", [b"", b"x" * 20, b"FISKEND\0" + bytes(12)])
def test_an_end_that_is_damaged_or_missing_says_nothing(log, data):
    pool, map_id, contents = log
    path_of(pool, map_id).write_bytes(contents[1])
    pool.put_blob(ends.name_of(map_id), [data])
    assert read_log_header(pool, map_id).map_id == map_id
    pool.delete_blob(ends.name_of(map_id))
    load_map(pool, map_id, MIB).close()


def test_the_end_of_a_log_that_was_compacted_since_says_nothing(log, monkeypatch):
    pool, map_id, _ = log
    before = pool.get_blob(ends.name_of(map_id))
    monkeypatch.setattr("fisk_core.blockmap.log.COMPACT_AT", 1)
    writer = LogWriter(pool, map_id)
    writer._compact_at = 1
    writer.append(encode_changes([(7, 1)], 1, TINY))
    assert not pool.has_blob(ends.name_of(map_id))
    writer.abandon()
    pool.put_blob(ends.name_of(map_id), [before])  # as a power loss may leave it
    load_map(pool, map_id, MIB).close()


def test_a_full_pool_does_not_keep_a_log_from_being_closed(log, monkeypatch):
    from fisk_core.errors import NoSpace

    pool, map_id, _ = log

    def full(*_, **__):
        raise NoSpace("full")

    writer = LogWriter(pool, map_id)
    writer.append(encode_changes([(7, 1)], 1, TINY))
    monkeypatch.setattr(pool, "put_blob", full)
    writer.close()
    load_map(pool, map_id, MIB).close()


def test_a_route_with_the_content_of_anothers_lets_nobody_in(tmp_path, expect_logs):
    expect_logs("is no route")
    for token in ("a", "b"):
        routes.publish(tmp_path, token, Route(f"/{token}", False))
    mine, other = routes._path(tmp_path, b"a"), routes._path(tmp_path, b"b")
    mine.write_bytes(other.read_bytes())
    assert routes.find(tmp_path, b"a") is None
    assert routes.find(tmp_path, b"b") == Route("/b", False)
    mine.write_text(json.dumps({"control": "/old", "read_only": True}))
    assert routes.find(tmp_path, b"a") == Route("/old", True), "of an earlier version"


@pytest.mark.parametrize("data", [b"", b"short", bytes(32)])
def test_a_secret_that_can_be_guessed_makes_no_names(tmp_path, data):
    home = Home(tmp_path)
    home.make()
    kept = Exports(home).token("x")
    assert Exports(home).token("x") == kept
    home.secret.write_bytes(data)
    with pytest.raises(Corrupt, match="secret is damaged"):
        Exports(home)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE maps SET pool_id = 99 WHERE num = 1", "map-missing"),
        ("UPDATE layers SET pool_id = 99 WHERE num = 1", "layer"),
        ("UPDATE fisks SET size = size + 512 WHERE name = 'a-s'", "header-differs"),
        ("UPDATE fisks SET size = size + 512 WHERE name = 'a'", "header-differs"),
        ("UPDATE fisks SET pool_id = 'x' WHERE name = 'a'", "catalog"),
    ],
)
def test_rows_that_say_something_wrong_are_named(tmp_path, engine, statement, kind):
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    assert kind in {each.kind for each in engine.check().problems}


def test_a_snapshot_may_be_larger_than_the_map_it_shares(engine):
    engine.snapshot("a", "first")
    engine.resize("a", engine.get("a").size + 512)
    engine.snapshot("a", "second")  # nothing was written since: the same map, of which less is there
    assert engine.check().problems == []
    engine.settle()
    assert engine.check().problems == []


def test_values_of_a_wrong_type_are_damage_of_the_catalog(tmp_path, engine):
    write(engine, "a", 0, b"x")  # there is a lease now
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as connection, connection:
        assert connection.execute("UPDATE leases SET epoch = 'x'").rowcount
    with pytest.raises(Corrupt, match="makes no sense"):
        read(engine, "a", 0, 1)


def test_a_torn_page_of_the_database_is_named(tmp_path, engine):
    engine.close()
    path = tmp_path / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        statement = "SELECT rootpage FROM sqlite_master WHERE name = 'map_layers'"
        page = connection.execute(statement).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 4000)
        file.write(bytes(96))
    with Engine.open(tmp_path) as again:
        assert not again.check().ok

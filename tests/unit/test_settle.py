# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from fisk_core import locks
from fisk_core.blockmap import read_blob_header
from fisk_core.catalog import maps
from fisk_core.engine import Engine
from fisk_core.engine.background import Background
from fisk_core.errors import InUse, PoolError
from fisk_core.services import headers, settle, sweep
from tests.engines import BLOCK, MIB, make_volume, paths_in, read, write


def header(engine, ref):
    name = headers.name_of(engine.get(ref).id)
    return headers.decode(engine.open_pool().get_blob(name), name)


# Maps


def test_a_sealed_map_becomes_a_blob_and_its_log_goes(engine):
    make_volume(engine, content=b"one")
    engine.snapshot("volume", "s1")
    write(engine, "volume", BLOCK, b"two")
    engine.snapshot("volume", "s2")
    engine.settle()
    pool = engine.home.pool("default")
    ids = sorted(engine.get(name).map_id for name in ("s1", "s2"))
    assert paths_in(pool, "blobs/maps") == paths_in(pool, "layers") == ids
    assert paths_in(pool, "logs") == []
    listed = read_blob_header(engine.open_pool(), engine.get("s2").map_id).layers[1:]
    assert sorted(filter(None, listed)) == ids
    with engine.catalog.read() as conn:
        assert all(row.has_blob and row.base is None for row in maps.select_maps(conn) if row.sealed)


def test_a_layer_of_which_nothing_is_left_goes(engine):
    make_volume(engine, content=b"one" * BLOCK)
    first = engine.snapshot("volume", "s1")
    write(engine, "volume", 0, b"two" * BLOCK)
    engine.snapshot("volume", "s2")
    engine.delete("s1")
    engine.settle()
    assert first.map_id not in paths_in(engine.home.pool("default"), "layers")
    assert read(engine, "s2", 0, 3) == b"two"


def test_a_layer_that_is_partly_seen_is_suspect(engine):
    make_volume(engine, content=b"one" * BLOCK)
    first = engine.snapshot("volume", "s1")
    write(engine, "volume", 0, b"two" * 100)
    engine.snapshot("volume", "s2")
    engine.settle()
    engine.delete("s1")
    with engine.catalog.read() as conn:
        assert maps.suspects(conn, "default") == [first.map_id]


def test_settling_again_changes_nothing(engine):
    make_volume(engine, content=b"one")
    engine.snapshot("volume", "s1")
    engine.settle()
    before = engine.catalog.version()
    engine.settle()
    assert engine.catalog.version() == before


def test_a_map_deleted_while_its_blob_is_written(engine, monkeypatch):
    make_volume(engine, content=b"one")
    engine.snapshot("volume", "s1")
    real = settle.consolidate

    def slow(*arguments):
        named = real(*arguments)
        engine.delete("s1", "volume")
        return named

    monkeypatch.setattr(settle, "consolidate", slow)
    engine.settle()
    pool = engine.home.pool("default")
    assert [paths_in(pool, folder) for folder in ("layers", "logs", "blobs/maps")] == [[], [], []]
    assert engine.check().problems == []


def test_one_bad_map_does_not_stop_the_others(engine, expect_logs):
    for name in ("bad", "good"):
        make_volume(engine, name, content=b"one")
        engine.set(name, frozen=True)
    engine.settler.wait()
    make_volume(engine, "bad2", content=b"one")
    make_volume(engine, "good2", content=b"one")
    map_id = engine.get("bad2").map_id
    path = engine.home.pool("default") / "logs" / map_id[:2] / map_id
    path.write_bytes(b"rubbish" + path.read_bytes()[7:])
    for name in ("bad2", "good2"):
        engine.set(name, frozen=True)
    expect_logs(f"{map_id} stays without a blob")
    engine.settle()
    assert engine.get("good2").map_id in paths_in(engine.home.pool("default"), "blobs/maps")


def test_close_leaves_nothing_to_do(tmp_path):
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"one")
        engine.snapshot("volume", "s1")
        map_id = engine.get("s1").map_id
    assert paths_in(tmp_path / "pools" / "default", "blobs/maps") == [map_id]
    with Engine.open(tmp_path) as engine, engine.catalog.read() as conn:
        assert maps.unsettled(conn) == []


def test_what_another_process_left_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "_settle", lambda self: None)
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"one")
        engine.snapshot("volume", "s1")
    monkeypatch.undo()
    with Engine.open(tmp_path) as engine:
        engine.set("s1", role="image")
    assert len(paths_in(tmp_path / "pools" / "default", "blobs/maps")) == 1
    assert len(paths_in(tmp_path / "pools" / "default", "blobs/fisks")) == 2


# Headers


def test_headers_follow_the_catalog(engine):
    make_volume(engine, content=b"one")
    engine.set("volume", attributes={"k": "v"})
    engine.snapshot("volume", "s1")
    engine.settle()
    found = header(engine, "s1")
    assert (found.name, found.state, found.map_id) == ("s1", "frozen", engine.get("s1").map_id)
    found = header(engine, "volume")
    assert (found.attributes, found.opened, found.base_id) == ({"k": "v"}, False, engine.get("s1").map_id)
    engine.set("volume", name="other")
    engine.settle()
    assert header(engine, "other").name == "other"


def test_a_header_is_there_before_the_first_write(engine, monkeypatch):
    monkeypatch.setattr(Engine, "_settle", lambda self: None)
    make_volume(engine)
    with engine.open_disk("volume", writable=True):
        assert header(engine, "volume").name == "volume"


def test_the_header_of_a_fisk_deleted_meanwhile_goes(engine, monkeypatch):
    make_volume(engine)
    real = settle._headers

    def slow(context, records):
        found = real(context, records)
        engine.delete("volume")
        return found

    monkeypatch.setattr(settle, "_headers", slow)
    engine.settle()
    assert paths_in(engine.home.pool("default"), "blobs/fisks") == []


# The sweeper


def test_the_sweeper_waits_for_those_who_make_files(engine, monkeypatch):
    monkeypatch.setattr(sweep, "_WAIT_SECONDS", 0.1)
    make_volume(engine, content=b"one")
    with engine.making(), pytest.raises(InUse):
        sweep.sweep(engine, "default")
    assert sweep.sweep(engine, "default") == []


def test_a_dry_run_removes_nothing(engine):
    make_volume(engine, content=b"one")
    leak = engine.home.pool("default") / "blobs" / "maps" / engine.get("volume").id
    leak.parent.mkdir(exist_ok=True)
    leak.write_bytes(b"leak")
    assert [(each.kind, each.size) for each in sweep.sweep(engine, "default", dry_run=True)] == [("maps", 4)]
    assert leak.exists()
    sweep.sweep(engine, "default")
    assert not leak.exists()


def test_staging_files_of_the_dead_go(engine):
    make_volume(engine)
    with engine.staging_file() as path:
        path.write_bytes(b"spool")
        sweep.sweep(engine, "default")
        assert path.exists()
    assert not path.exists()


# The background thread


def test_the_background_waits_for_quiet_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("fisk_core.engine.background.QUIET_SECONDS", 0.2)
    monkeypatch.setattr("fisk_core.engine.background.PATIENCE_SECONDS", 0.5)
    done = []
    background = Background(lambda: done.append(time.monotonic()))
    began = time.monotonic()
    while time.monotonic() < began + 0.9:
        background.notify()
        time.sleep(0.02)
    background.close()
    assert 0.45 < done[0] - began < 0.8


def test_the_background_survives_failures(expect_logs):
    failures = iter([PoolError("the disk is on fire")])
    done = threading.Event()

    def work():
        for failure in failures:
            raise failure
        done.set()

    expect_logs("will be tried again: the disk is on fire")
    background = Background(work)
    background.notify()
    background.wait()
    background.notify()
    background.wait()
    assert done.is_set()
    background.close()
    background.close()


def test_an_idle_background_has_no_thread():
    background = Background(lambda: None)
    background.wait()
    background.close()
    assert "fisk-settle" not in {thread.name for thread in threading.enumerate()}


def test_two_settling_at_once_take_turns(engine):
    make_volume(engine, content=b"one")
    engine.snapshot("volume", "s1")
    with locks.acquire(engine.home.run / "settle.lock"):
        thread = threading.Thread(target=engine.settle)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()


# Data in the middle of it all


def test_reading_while_the_maps_below_are_settled(engine):
    make_volume(engine, size=MIB)
    for number in range(30):
        write(engine, "volume", number * BLOCK, bytes([number + 1]) * BLOCK)
        engine.snapshot("volume", f"s{number}")
    failures = []
    stop = threading.Event()

    def reader():
        while not stop.is_set():
            for number in (3, 29):
                seen = read(engine, f"s{number}", 0, 30 * BLOCK)[::BLOCK]
                if seen != bytes([*range(1, number + 2), *[0] * (29 - number)]):
                    failures.append(number)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    engine.settle()
    engine.delete(*[f"s{number}" for number in range(30) if number not in (3, 29)])
    engine.settle()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert engine.check().problems == []

# SPDX-License-Identifier: Apache-2.0
"""Each invariant is broken by hand; check must say so, and repair what it can without changing a byte."""

import os
import uuid

import pytest
from sqlalchemy import delete, insert, select, update

from fisk_core import locks
from fisk_core.catalog import fisks, maps, schema
from fisk_core.engine import Engine
from tests.engines import BLOCK, MIB, TINY, make_volume, paths_in, read, write

CONTENT = b"content" * 1000


@pytest.fixture
def engine(tmp_path):
    with Engine.open(tmp_path) as opened:
        make_volume(opened, content=CONTENT)
        opened.snapshot("volume", "snap")
        opened.clone("snap", "clone")
        write(opened, "volume", 8 * BLOCK, b"more")
        opened.settle()
        assert opened.check().problems == []
        yield opened


def kinds(engine, **options):
    return sorted({each.kind for each in engine.check(**options).problems})


def change(engine, statement):
    with engine.catalog.change() as conn:
        conn.execute(statement)


def path_of(engine, folder, name):
    pool = engine.home.pool("default")
    return pool / folder / name if "/" in folder else pool / folder / name[:2] / name


def all_is_readable(engine):
    assert read(engine, "snap", 0, len(CONTENT)) == CONTENT
    assert read(engine, "clone", 0, len(CONTENT)) == CONTENT
    return True


def test_counts(engine):
    report = engine.check()
    assert (report.fisks, report.maps, report.layers) == (3, 3, 2)
    assert report.ok
    assert report.errors == report.warnings == []


# What can be repaired


def test_a_frozen_fisk_whose_map_is_not_sealed(engine):
    engine.set("volume", frozen=True)
    map_id = engine.get("volume").map_id
    change(engine, update(schema.maps).where(schema.maps.c.id == map_id).values(sealed=False, has_blob=False))
    assert "frozen-unsealed" in kinds(engine)


def test_a_live_fisk_whose_map_is_sealed_gets_a_new_period(engine):
    map_id = engine.get("volume").map_id
    with engine.catalog.change() as conn:
        maps.mark_sealed(conn, map_id, MIB)
    assert kinds(engine) == ["live-sealed"]
    assert kinds(engine, repair=True) == ["live-sealed"]
    assert engine.check().ok
    write(engine, "volume", 0, b"C")
    assert read(engine, "volume", 8 * BLOCK, 4) == b"more"


def test_a_map_nobody_needs_goes(engine):
    with engine.catalog.change() as conn:
        row = fisks.find(conn, "clone")
        maps.insert_maps(conn, [maps.period(str(uuid.uuid4()), row.pool_id, None, 0, row.id)])
    assert kinds(engine) == ["map-leak"]
    assert engine.check().ok, "a leak is a warning"
    engine.check(repair=True)
    assert engine.check().problems == []


def test_a_layer_nobody_names_goes(engine):
    with engine.catalog.change() as conn:
        pool_id = fisks.find(conn, "clone").pool_id
        maps.add_layers(conn, pool_id, [str(uuid.uuid4())], frozen=True)
    assert "layer-leak" in kinds(engine)
    engine.check(repair=True)
    assert engine.check().problems == []


@pytest.mark.parametrize("folder", ["layers", "logs", "blobs/maps", "blobs/fisks"])
def test_a_file_nobody_names_goes(engine, folder):
    path = path_of(engine, folder, str(uuid.uuid4()))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left by a crash")
    assert kinds(engine) == ["leak"]
    assert path.exists()
    engine.check(repair=True)
    assert not path.exists()
    assert engine.check().problems == []
    assert all_is_readable(engine)


def test_lost_names_of_layers_are_read_from_the_blob(engine):
    map_id = engine.get("snap").map_id
    num = select(schema.maps.c.num).where(schema.maps.c.id == map_id).scalar_subquery()
    change(engine, delete(schema.map_layers).where(schema.map_layers.c.map == num))
    assert "names" in kinds(engine)
    engine.check(repair=True)
    assert engine.check().problems == []
    assert all_is_readable(engine)


def test_a_forgotten_layer_row_comes_back_before_its_file_is_swept(engine):
    map_id = engine.get("snap").map_id
    num = select(schema.layers.c.num).where(schema.layers.c.id == map_id).scalar_subquery()
    change(engine, delete(schema.map_layers).where(schema.map_layers.c.layer == num))
    change(engine, delete(schema.layers).where(schema.layers.c.id == map_id))
    assert {"names", "leak"} <= set(kinds(engine))
    engine.check(repair=True)
    assert engine.check().problems == []
    assert all_is_readable(engine)


def test_a_layer_not_noted_as_frozen(engine):
    map_id = engine.get("snap").map_id
    change(engine, update(schema.layers).where(schema.layers.c.id == map_id).values(frozen=False))
    assert kinds(engine, repair=True) == ["layer-unfrozen"]
    assert engine.check().problems == []


def test_a_damaged_header_is_written_again(engine):
    path = path_of(engine, "blobs/fisks", engine.get("snap").id)
    path.write_bytes(path.read_bytes()[:-1])
    assert kinds(engine, repair=True) == ["header"]
    assert engine.check().problems == []


def test_a_dead_import_goes(engine):
    building = engine.begin_build("image", size=MIB, **TINY)
    building.disk.write(0, b"x")
    assert engine.check().problems == [], "it has a process"
    building.disk.close()
    building._lock.release()
    assert kinds(engine) == ["dead-import"]
    engine.check(repair=True)
    assert engine.check().problems == []
    assert building.fisk_id not in paths_in(engine.home.pool("default"), "logs")


def test_lock_files_of_fisks_that_are_gone_go(engine):
    stale = engine.home.lock(str(uuid.uuid4()))
    locks.acquire(stale).release()
    path_of(engine, "logs", str(uuid.uuid4())).parent.mkdir(exist_ok=True)
    path = path_of(engine, "logs", str(uuid.uuid4()))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    engine.check(repair=True)
    assert not stale.exists()
    assert engine.home.lock(engine.get("volume").id).exists()


def test_nothing_is_removed_while_something_is_broken(engine):
    path_of(engine, "blobs/maps", engine.get("snap").map_id).unlink()
    rubbish = path_of(engine, "layers", str(uuid.uuid4()))
    rubbish.parent.mkdir(exist_ok=True)
    rubbish.write_bytes(b"who knows")
    report = engine.check(repair=True)
    assert "leak" in {each.kind for each in report.warnings}
    assert rubbish.exists()


def test_an_old_copy_of_the_catalog_is_noticed(engine, tmp_path):
    home = engine.home.path
    engine.catalog.close()
    old = (home / "catalog.sqlite").read_bytes()
    with Engine.open(home) as other:
        make_volume(other, "later", content=b"precious")
    (home / "catalog.sqlite").write_bytes(old)
    for extra in home.glob("catalog.sqlite-*"):
        extra.unlink()
    with Engine.open(home) as other:
        report = other.check(repair=True)
        assert "catalog-old" in {each.kind for each in report.errors}
        assert other.rescan("default", force=True).fisks == ["later"]
        assert read(other, "later", 0, 8) == b"precious"
        assert other.check().ok


def test_writes_the_catalog_has_forgotten_are_not_swept(engine):
    make_volume(engine, "forgotten", content=b"precious")
    engine.settle()
    map_id = engine.get("forgotten").map_id
    num = select(schema.maps.c.num).where(schema.maps.c.id == map_id).scalar_subquery()
    change(engine, delete(schema.map_layers).where(schema.map_layers.c.map == num))
    change(engine, delete(schema.layers).where(schema.layers.c.id == map_id))
    change(engine, update(schema.maps).where(schema.maps.c.id == map_id).values(opened=False))
    assert "catalog-old" in kinds(engine, repair=True)
    assert path_of(engine, "layers", map_id).exists()


# What cannot


def test_a_missing_layer(engine):
    path_of(engine, "layers", engine.get("snap").map_id).unlink()
    assert kinds(engine, repair=True) == ["layer"]
    assert not engine.check().ok


def test_a_layer_cut_short(engine):
    os.truncate(path_of(engine, "layers", engine.get("snap").map_id), BLOCK)
    assert kinds(engine, repair=True) == ["layer-short"]


def test_a_missing_log(engine):
    path_of(engine, "logs", engine.get("volume").map_id).unlink()
    assert kinds(engine, repair=True) == ["log", "map"]


def test_a_damaged_log(engine):
    path = path_of(engine, "logs", engine.get("volume").map_id)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert kinds(engine, repair=True) == ["log", "map"]


def test_every_flipped_byte_of_a_blob_is_noticed(engine):
    path = path_of(engine, "blobs/maps", engine.get("snap").map_id)
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        data = bytearray(whole)
        data[position] ^= 0x10
        path.write_bytes(data)
        assert "blob" in kinds(engine), position
    path.write_bytes(whole)
    assert engine.check().ok


def test_a_missing_blob(engine):
    path_of(engine, "blobs/maps", engine.get("snap").map_id).unlink()
    assert "blob" in kinds(engine, repair=True)


def test_two_fisks_in_one_period(engine):
    with engine.catalog.change() as conn:
        fisks.update_fisk(conn, engine.get("clone").id, map_id=engine.get("volume").map_id)
    assert {"shared-period", "foreign-period"} <= set(kinds(engine))


def test_a_log_of_another_base(engine):
    with engine.catalog.change() as conn:
        volume = fisks.find(conn, "volume")
        other = maps.period(str(uuid.uuid4()), volume.pool_id, None, 0, volume.id)
        maps.insert_maps(conn, [other])
        conn.execute(update(schema.maps).where(schema.maps.c.id == volume.map_id).values(base=other["id"]))
    assert {"log-differs", "base-unopened"} <= set(kinds(engine))


def test_a_missing_pool_is_said_and_nothing_removed(engine, expect_logs):
    expect_logs("headers of 1 Fisks could not be written")
    folder = engine.home.pool("default")
    folder.rename(folder.with_name("moved"))
    report = engine.check(repair=True)
    assert not report.ok
    folder.with_name("moved").rename(folder)
    assert engine.check().ok
    assert all_is_readable(engine)


def test_attributes_do_not_matter_to_check(engine):
    change(
        engine,
        insert(schema.attributes).values(fisk_id=engine.get("snap").id, key="k", value="v" * 1000),
    )
    assert engine.check().problems == []

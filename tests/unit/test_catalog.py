# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import threading
import uuid

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.schema import CreateTable

from fisk_core.catalog import Catalog, fisks, leases, maps, migrate, pools, schema
from fisk_core.errors import AlreadyExists, Corrupt, NotFound, Unsupported


def open_catalog(path):
    return Catalog(f"sqlite:///{path / 'catalog.sqlite'}", path / "migration.lock")


@pytest.fixture
def catalog(tmp_path):
    opened = open_catalog(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def pool_id(catalog):
    with catalog.change() as conn:
        spec = {"name": "pool", "driver": "file", "class": "module:Class", "options": {"path": "/nowhere"}}
        pools.add(conn, str(uuid.uuid4()), spec)
    with catalog.read() as conn:
        return pools.find(conn, "pool").id


def new_map(conn, pool_id, *, base=None, opened=True):
    map_id = str(uuid.uuid4())
    maps.insert_maps(conn, [maps.period(map_id, pool_id, base, 0, str(uuid.uuid4()))])
    if opened:
        maps.mark_opened(conn, map_id, pool_id)
    return map_id


def new_fisk(conn, pool_id, map_id, name="disk", state="live", **values):
    row = fisks.new_row(
        id=str(uuid.uuid4()),
        name=name,
        size=4096,
        state=state,
        role="volume",
        pool_id=pool_id,
        map_id=map_id,
        block_size=512,
        page_size=2048,
        **values,
    )
    fisks.insert_fisks(conn, [row], {"colour": "blue"})
    return row["id"]


# The database


def test_the_migrations_give_what_the_schema_says(catalog):
    with catalog.read() as conn:
        assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []
    assert ScriptDirectory.from_config(migrate.config()).get_current_head() == schema.REVISION


@pytest.mark.parametrize("dialect", [mysql.dialect(), MariaDBDialect(), postgresql.dialect()])
def test_no_database_rounds_times_to_seconds(dialect):
    shown = str(CreateTable(schema.range_locks).compile(dialect=dialect))
    assert "expires DATETIME(6)" in shown or "expires TIMESTAMP WITHOUT TIME ZONE" in shown


def test_every_table_is_explained():
    for table in schema.metadata.tables.values():
        assert table.comment, table.name


def test_opening_a_current_catalog_does_not_load_alembic(catalog, tmp_path):
    code = (
        "import sys, pathlib; from fisk_core.catalog import Catalog; p = pathlib.Path(sys.argv[1]); "
        "Catalog(f'sqlite:///{p}/catalog.sqlite', p / 'migration.lock').close(); "
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_a_catalog_of_a_newer_fisk_is_refused(catalog, tmp_path):
    with catalog.change() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unsupported, match="newer"):
        open_catalog(tmp_path)


def test_a_file_that_is_no_database_is_corrupt(tmp_path):
    (tmp_path / "catalog.sqlite").write_bytes(b"this is not a database, whatever it is" * 100)
    with pytest.raises(Corrupt):
        open_catalog(tmp_path)


def test_first_openers_do_not_collide(tmp_path):
    failures = []

    def work():
        try:
            opened = open_catalog(tmp_path)
            with opened.change():
                pass
            opened.close()
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    opened = open_catalog(tmp_path)
    assert opened.version() == 6
    opened.close()


def test_commits_are_durable_and_keys_are_enforced(catalog):
    with catalog.read() as conn:
        assert conn.execute(text("PRAGMA synchronous")).scalar() == 2
        assert conn.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert conn.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_the_version_counts_changes_that_were_committed(catalog):
    before = catalog.version()
    with catalog.change():
        pass
    with pytest.raises(RuntimeError), catalog.change():
        raise RuntimeError
    assert catalog.version() == before + 1


def test_a_failed_change_leaves_nothing(catalog, pool_id):
    def attempt():
        with catalog.change() as conn:
            new_fisk(conn, pool_id, new_map(conn, pool_id))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    with catalog.read() as conn:
        assert fisks.select_fisks(conn) == []
        assert maps.select_maps(conn) == []


def test_writers_wait_for_each_other(catalog):
    def work():
        for _ in range(20):
            with catalog.change():
                pass

    before = catalog.version()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert catalog.version() == before + 80


# Fisks


def test_a_fisk_is_found_by_name_and_id(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id))
    with catalog.read() as conn:
        assert fisks.find(conn, "disk").id == fisk_id
        assert fisks.find(conn, fisk_id.upper()).name == "disk"
        assert fisks.load(conn, "disk").attributes == {"colour": "blue"}
        with pytest.raises(NotFound, match="nosuch"):
            fisks.find(conn, "nosuch")


def test_what_is_being_built_is_hidden_but_holds_its_name(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id), state="building")
    with catalog.read() as conn:
        with pytest.raises(NotFound):
            fisks.find(conn, "disk")
        assert fisks.find(conn, "disk", building=True).id == fisk_id
        assert fisks.select_fisks(conn) == []
        with pytest.raises(fisks.Conflict) as caught:
            fisks.require_free(conn, ["disk"])
    assert caught.value.building == [fisk_id]


def test_names_are_unique(catalog, pool_id):
    with catalog.change() as conn:
        new_fisk(conn, pool_id, new_map(conn, pool_id))
    with pytest.raises(AlreadyExists), catalog.change() as conn:
        new_fisk(conn, pool_id, new_map(conn, pool_id))


def test_many_names_are_checked_at_once(catalog, pool_id):
    with catalog.change() as conn:
        new_fisk(conn, pool_id, new_map(conn, pool_id), name="n-1700")
    with catalog.read() as conn:
        fisks.require_free(conn, [f"n-{number}" for number in range(1700)])
        with pytest.raises(AlreadyExists, match="n-1700"):
            fisks.require_free(conn, [f"n-{number}" for number in range(2000)])


def test_attributes_are_set_and_removed(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id))
        fisks.set_attributes(conn, fisk_id, {"colour": None, "shape": "round", "never": None})
    with catalog.read() as conn:
        assert fisks.attributes_of(conn, fisk_id) == {"shape": "round"}


def test_attributes_and_leases_go_with_their_fisk(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id))
        leases.take(conn, fisk_id, "host:1")
        fisks.delete_fisks(conn, [fisk_id])
        assert fisks.attributes_of(conn, fisk_id) == {}
        assert leases.epoch(conn, fisk_id) == 0


def test_a_header_written_meanwhile_stays_stale(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id))
        first = fisks.find(conn, fisk_id)
        gone, elsewhere = first._replace(id=str(uuid.uuid4())), first._replace(pool_id=pool_id + 1)
        fisks.update_fisk(conn, fisk_id, role="image")
        assert fisks.mark_published(conn, [first, gone]) == {gone.id}
        assert [each.revision for each in fisks.unpublished(conn)] == [2]
        second = fisks.find(conn, fisk_id)
        assert fisks.mark_published(conn, [elsewhere._replace(revision=2)]) == {fisk_id}
        assert [each.published for each in fisks.unpublished(conn)] == [1]
        fisks.mark_published(conn, [second])
        assert fisks.unpublished(conn) == []


def test_epochs_only_rise(catalog, pool_id):
    with catalog.change() as conn:
        fisk_id = new_fisk(conn, pool_id, new_map(conn, pool_id))
        assert [leases.take(conn, fisk_id, f"host:{n}") for n in range(3)] == [1, 2, 3]


# Maps and layers


def test_a_map_goes_with_its_last_user_and_takes_bases_along(catalog, pool_id):
    with catalog.change() as conn:
        oldest = new_map(conn, pool_id)
        middle = new_map(conn, pool_id, base=oldest)
        newest = new_map(conn, pool_id, base=middle, opened=False)
        fisk_id = new_fisk(conn, pool_id, newest)
        assert maps.drop_unneeded(conn, [newest, middle, oldest]).maps == []
        fisks.delete_fisks(conn, [fisk_id])
        garbage = maps.drop_unneeded(conn, [newest])
        assert {each for _, each in garbage.maps} == {oldest, middle, newest}
        assert {each for _, each in garbage.layers} == {oldest, middle}
        assert {each for _, each in garbage.logs} == {oldest, middle}
        assert maps.select_maps(conn) == []
        assert maps.layer_ids(conn, "pool") == set()


def test_a_base_in_use_stays(catalog, pool_id):
    with catalog.change() as conn:
        base = new_map(conn, pool_id)
        one, two = (new_map(conn, pool_id, base=base, opened=False) for _ in range(2))
        new_fisk(conn, pool_id, two)
        assert [each for _, each in maps.drop_unneeded(conn, [one]).maps] == [one]
        assert {row.id for row in maps.select_maps(conn)} == {base, two}


def test_a_blob_takes_over_what_it_names(catalog, pool_id):
    with catalog.change() as conn:
        oldest, middle = new_map(conn, pool_id), None
        middle = new_map(conn, pool_id, base=oldest)
        new_fisk(conn, pool_id, middle, state="frozen")
        garbage = maps.set_blob(conn, maps.find(conn, middle), {oldest})
        assert [each for _, each in garbage.maps] == [oldest]
        assert [each for _, each in garbage.layers] == [middle]
        assert {each for _, each in garbage.logs} == {middle, oldest}
        assert maps.layers_of(conn, middle) == {oldest}
        row = maps.find(conn, middle)
        assert (row.has_blob, row.base) == (True, None)


def test_a_layer_that_lost_a_map_but_not_all_is_suspect(catalog, pool_id):
    with catalog.change() as conn:
        first = new_map(conn, pool_id)
        second = new_map(conn, pool_id, base=first)
        keeper, goner = new_fisk(conn, pool_id, second, "keeper"), new_fisk(conn, pool_id, first, "goner")
        maps.mark_sealed(conn, first, 4096)
        maps.set_blob(conn, maps.find(conn, second), {first, second})
        assert maps.suspects(conn, "pool") == [], "its map still has a Fisk"
        fisks.delete_fisks(conn, [goner])
        maps.drop_unneeded(conn, [first])
        assert maps.suspects(conn, "pool") == [first]
        assert [row.id for row in maps.maps_naming(conn, first)] == [second]
        maps.clear_suspect(conn, first)
        assert maps.suspects(conn, "pool") == []
        assert fisks.find(conn, keeper).opened


def test_an_interrupted_snapshot_is_found(catalog, pool_id):
    with catalog.change() as conn:
        old = new_map(conn, pool_id)
        new_fisk(conn, pool_id, new_map(conn, pool_id, base=old))
        assert [row.id for row in maps.abandoned(conn)] == [old]
        assert fisks.find(conn, "disk").unsettled
        maps.mark_sealed(conn, old, 4096)
        assert maps.abandoned(conn) == []
        assert [row.id for row in maps.unsettled(conn)] == [old]
        assert not fisks.find(conn, "disk").unsettled

# SPDX-License-Identifier: Apache-2.0
import uuid

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, InUse, InvalidValue, LimitExceeded, NotFound, ReadOnly
from fisk_core.model import MAX_SIZE, State
from tests.engines import BLOCK, MIB, PAGE, TINY, make_volume, paths_in, read, write

# Names, sizes, parameters


@pytest.mark.parametrize("name", ["a", "A9", "web-1.example:x_y+z@b=c", "x" * 255])
def test_names_that_are_good(engine, name):
    assert engine.create(name, MIB).name == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a b", "a/b", "ä", "x" * 256, "a\n", "d5c9f882-79e8-4788-b0f3-8f8dd0c7ea6a"]
)
def test_names_that_are_not(engine, name):
    with pytest.raises(InvalidValue):
        engine.create(name, MIB)


@pytest.mark.parametrize("size", [0, -512, 1, 511, 513])
def test_sizes_that_make_no_sense(engine, size):
    with pytest.raises(InvalidValue):
        engine.create("a", size)


def test_the_largest_size_is_possible(engine):
    largest = engine.open_pool("default").largest_device
    engine.create("a", largest)
    write(engine, "a", largest - 2, b"zz")
    assert read(engine, "a", largest - 2, 2) == b"zz"
    assert read(engine, "a", 0, 2) == b"\0\0"
    with pytest.raises(LimitExceeded):
        engine.create("b", MAX_SIZE + 512)


@pytest.mark.parametrize(
    ("block", "page"),
    [(511, 2048), (256, 2048), (1024, 512), (512, 1536), (512, 512 * 8192), (4096, 2 << 30)],
)
def test_geometry_that_makes_no_sense(engine, block, page):
    with pytest.raises(InvalidValue):
        engine.create("a", MIB, block_size=block, page_size=page)


@pytest.mark.parametrize("role", ["", "Volume", "a b", "x" * 65])
def test_roles_that_are_not(engine, role):
    with pytest.raises(InvalidValue):
        engine.create("a", MIB, role=role)


def test_attributes_have_limits(engine):
    engine.create("a", MIB, attributes={"k" * 255: "v" * 65536})
    for labels, error in [({"": "v"}, InvalidValue), ({"k" * 256: "v"}, InvalidValue)]:
        with pytest.raises(error):
            engine.create("b", MIB, attributes=labels)
    with pytest.raises(LimitExceeded):
        engine.create("b", MIB, attributes={"k": "v" * 65537})


def test_an_unknown_pool_is_not_found(engine):
    with pytest.raises(NotFound, match="nosuch"):
        engine.create("a", MIB, pool="nosuch")


# Creating and finding


def test_create_says_what_it_made(engine):
    made = engine.create("a", MIB, role="disk", attributes={"k": "v"}, **TINY)
    assert (made.size, made.state, made.role, made.pool) == (MIB, State.LIVE, "disk", "default")
    assert (made.block_size, made.page_size, made.attributes) == (BLOCK, PAGE, {"k": "v"})
    assert engine.get("a") == engine.get(made.id) == made


def test_a_new_fisk_has_no_files_and_reads_zeros(engine):
    make_volume(engine)
    assert read(engine, "volume", 0, MIB) == bytes(MIB)
    assert paths_in(engine.home.pool("default"), "layers") == []


def test_create_with_an_id_may_be_repeated(engine):
    fisk_id = str(uuid.uuid4())
    made = engine.create("a", MIB, id=fisk_id)
    assert engine.create("a", MIB, id=fisk_id.upper()) == made
    with pytest.raises(AlreadyExists, match="size"):
        engine.create("a", 2 * MIB, id=fisk_id)
    with pytest.raises(AlreadyExists, match="name"):
        engine.create("b", MIB, id=fisk_id)
    with pytest.raises(InvalidValue):
        engine.create("b", MIB, id="not-an-id")


def test_a_taken_name_is_refused(engine):
    engine.create("a", MIB)
    with pytest.raises(AlreadyExists, match="'a'"):
        engine.create("a", MIB)


def test_list_filters(engine):
    engine.create("web-1", MIB, role="disk", attributes={"az": "1", "tier": "gold"})
    engine.create("web-2", MIB, attributes={"az": "2"})
    engine.create("db", MIB, attributes={"az": "1"})
    engine.snapshot("db", "db-s")

    def names(**filters):
        return [fisk.name for fisk in engine.list(**filters)]

    assert names() == ["web-1", "web-2", "db", "db-s"]
    assert names(role="disk") == ["web-1"]
    assert names(state="frozen") == ["db-s"]
    assert names(pool="default") == names()
    assert names(pool="other") == []
    assert names(attributes={"az": "1"}) == ["web-1", "db"]
    assert names(attributes={"az": "1", "tier": "gold"}) == ["web-1"]
    assert names(name="web-[2-9]") == ["web-2"]
    assert names(name="*b*", role="volume") == ["web-2", "db"]


# Changing


def test_set_changes_labels_only(engine):
    made = make_volume(engine, content=b"content")
    changed = engine.set("volume", name="other", role="image", attributes={"k": "v"})
    assert (changed.id, changed.name, changed.role, changed.attributes) == (
        made.id,
        "other",
        "image",
        {"k": "v"},
    )
    assert engine.set("other", attributes={"k": None, "l": "w"}).attributes == {"l": "w"}
    assert read(engine, "other", 0, 7) == b"content"
    with pytest.raises(NotFound):
        engine.get("volume")


def test_set_refuses_a_taken_name_but_not_its_own(engine):
    engine.create("a", MIB)
    engine.create("b", MIB)
    with pytest.raises(AlreadyExists):
        engine.set("a", name="b")
    assert engine.set("a", name="a").name == "a"


def test_freezing_is_for_ever(engine):
    make_volume(engine, content=b"content")
    assert engine.set("volume", frozen=True).state is State.FROZEN
    assert engine.set("volume", frozen=True).state is State.FROZEN
    assert read(engine, "volume", 0, 7) == b"content"
    with pytest.raises(ReadOnly):
        write(engine, "volume", 0, b"x")
    with pytest.raises(ReadOnly):
        engine.resize("volume", 2 * MIB)
    with pytest.raises(InvalidValue):
        engine.set("volume", frozen=False)
    engine.settle()
    assert read(engine, "volume", 0, 7) == b"content"


def test_freezing_what_was_never_written(engine):
    make_volume(engine)
    engine.set("volume", frozen=True)
    clone = engine.clone("volume", "clone")[0]
    engine.set(clone.id, frozen=True)
    engine.settle()
    assert read(engine, "volume", 0, MIB) == read(engine, "clone", 0, MIB) == bytes(MIB)
    assert engine.check().ok


def test_freezing_needs_the_writer_gone(engine):
    make_volume(engine)
    with engine.open_disk("volume", writable=True), pytest.raises(InUse):
        engine.set("volume", frozen=True)


# Opening


def test_one_writer_or_many_readers(engine):
    make_volume(engine, content=b"content")
    with engine.open_disk("volume"), engine.open_disk("volume"), pytest.raises(InUse):
        engine.open_disk("volume", writable=True)
    with engine.open_disk("volume", writable=True):
        for writable in (False, True):
            with pytest.raises(InUse):
                engine.open_disk("volume", writable=writable)


def test_the_lock_ends_with_the_disk(engine):
    make_volume(engine)
    engine.open_disk("volume", writable=True).close()
    engine.open_disk("volume", writable=True).close()


def test_each_writer_has_a_higher_epoch(engine):
    from fisk_core.catalog import leases

    fisk = make_volume(engine)
    for expected in (1, 2, 3):
        engine.open_disk("volume", writable=True).close()
        with engine.catalog.read() as conn:
            assert leases.epoch(conn, fisk.id) == expected


def test_files_left_by_an_open_that_died_are_replaced(engine):
    fisk = make_volume(engine)
    folder = engine.home.pool("default") / "layers" / fisk.map_id[:2]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / fisk.map_id).write_bytes(b"rubbish" * 1000)
    write(engine, "volume", BLOCK, b"x")
    assert read(engine, "volume", 0, 2 * BLOCK) == bytes(BLOCK) + b"x" + bytes(BLOCK - 1)


def test_a_missing_log_is_never_an_empty_disk(engine):
    fisk = make_volume(engine, content=b"content")
    (engine.home.pool("default") / "logs" / fisk.map_id[:2] / fisk.map_id).unlink()
    with pytest.raises(NotFound):
        engine.open_disk("volume")
    with pytest.raises(NotFound):
        engine.open_disk("volume", writable=True)


def test_a_spec_for_writing_needs_the_lock_first(engine):
    fisk = make_volume(engine)
    with pytest.raises(InvalidValue, match="acquired"):
        engine.disk_spec(fisk, False)
    with engine.acquire("volume", True):
        assert engine.disk_spec(fisk, False).map_id == fisk.map_id


# Looking


def test_route_says_where_a_byte_lives(engine):
    fisk = make_volume(engine, content=b"content")
    found = engine.route("volume", 3)
    assert (found.layer_id, found.pool, found.file_offset) == (fisk.map_id, "default", 3)
    with open(str(found.path), "rb") as file:
        file.seek(3)
        assert file.read(4) == b"tent"
    assert engine.route("volume", MIB - 1).layer_id is None
    for offset in (-1, MIB):
        with pytest.raises(InvalidValue):
            engine.route("volume", offset)


def test_tree_shows_lineage_and_orphans_are_roots(engine):
    make_volume(engine, "root")
    engine.snapshot("root", "snap")
    engine.clone("snap", "leaf", count=2)
    (node,) = engine.tree()
    assert node.fisk.name == "root"
    assert [child.fisk.name for child in node.children[0].children] == ["leaf-1", "leaf-2"]
    assert [each.fisk.name for each in engine.tree("snap")] == ["snap"]
    engine.delete("snap")
    assert [each.fisk.name for each in engine.tree()] == ["root", "leaf-1", "leaf-2"]


# Pools and homes


def test_pools_are_made_listed_and_used(engine, tmp_path):
    made = engine.create_pool("fast", options={"path": str(tmp_path / "elsewhere")})
    assert made.free <= made.total
    engine.create("a", MIB, pool="fast", **TINY)
    write(engine, "a", 0, b"x")
    assert paths_in(tmp_path / "elsewhere", "layers") == [engine.get("a").map_id]
    assert [pool.name for pool in engine.pools()] == ["fast"]
    engine.create("b", MIB)
    assert [pool.name for pool in engine.pools()] == ["fast", "default"]
    with pytest.raises(AlreadyExists):
        engine.create_pool("fast")
    with pytest.raises(NotFound):
        engine.pool("nosuch")


def test_a_driver_that_moved_is_found_again(engine):
    from fisk_core.catalog import pools

    make_volume(engine, content=b"x")
    with engine.catalog.change() as conn:
        pools.set_class(conn, "default", "fisk_core.pools.gone:Gone")
    with Engine.open(engine.home.path) as other:
        assert read(other, "volume", 0, 1) == b"x"
        with other.catalog.read() as conn:
            assert pools.find(conn, "default").class_path == "fisk_core.pools.file:FilePool"


def test_the_home_directory_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FISK_HOME", str(tmp_path / "one"))
    with Engine.open() as engine:
        engine.create("a", MIB)
    monkeypatch.delenv("FISK_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    Engine.open().close()
    assert (tmp_path / "one" / "catalog.sqlite").exists()
    assert (tmp_path / "data" / "fisk" / "catalog.sqlite").exists()


def test_options_are_read_from_the_home_directory(tmp_path):
    (tmp_path / "fisk.conf").write_text(
        f"[DEFAULT]\ndefault_pool = main\n[catalog]\nconnection = sqlite:///{tmp_path}/other.sqlite\n"
    )
    with Engine.open(tmp_path) as engine:
        assert engine.create("a", MIB).pool == "main"
    assert (tmp_path / "other.sqlite").exists()
    (tmp_path / "fisk.conf").write_text("this is no configuration\n")
    with pytest.raises(InvalidValue, match=r"fisk\.conf"):
        Engine.open(tmp_path)

# SPDX-License-Identifier: Apache-2.0
import uuid

import pytest

from fisk_core.errors import AlreadyExists, InUse, InvalidValue, NotFound, ReadOnly
from fisk_core.model import Change, State
from tests.engines import BLOCK, MIB, PAGE, TINY, make_volume, paths_in, read, write

# Snapshots


def test_a_snapshot_keeps_what_was_and_the_source_goes_on(engine):
    volume = make_volume(engine, content=b"old")
    taken = engine.snapshot("volume", "snap", attributes={"k": "v"})
    assert (taken.state, taken.role, taken.size) == (State.FROZEN, "snapshot", MIB)
    assert (taken.parent_id, taken.attributes) == (volume.id, {"k": "v"})
    assert taken == engine.get("snap")
    write(engine, "volume", 0, b"new")
    assert read(engine, "snap", 0, 4) == b"old\0"
    assert read(engine, "volume", 0, 4) == b"new\0"


@pytest.mark.parametrize("settled", [False, True])
def test_a_long_line_of_snapshots(engine, settled):
    make_volume(engine)
    for number in range(12):
        write(engine, "volume", number * BLOCK, bytes([number + 1]) * BLOCK)
        engine.snapshot("volume", f"s{number}")
        if settled:
            engine.settle()
    for number in range(12):
        seen = read(engine, f"s{number}", 0, 12 * BLOCK)
        assert seen[::BLOCK] == bytes([*range(1, number + 2), *[0] * (11 - number)])
    assert engine.check().ok


def test_snapshot_of_what_was_never_written(engine):
    make_volume(engine)
    engine.snapshot("volume", "one")
    engine.snapshot("volume", "two")
    assert engine.get("one").map_id == engine.get("two").map_id
    write(engine, "volume", 0, b"x")
    assert read(engine, "one", 0, MIB) == bytes(MIB)
    engine.settle()
    assert read(engine, "two", 0, MIB) == bytes(MIB)
    assert engine.check().ok


def test_snapshot_of_a_frozen_fisk_has_its_map(engine):
    make_volume(engine, content=b"old")
    one = engine.snapshot("volume", "one")
    two = engine.snapshot("one", "two")
    assert two.map_id == one.map_id
    engine.delete("one")
    engine.settle()
    assert read(engine, "two", 0, 3) == b"old"


def test_snapshot_of_an_untouched_clone(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "one")
    engine.clone("one", "clone", size=2 * MIB)
    two = engine.snapshot("clone", "two")
    assert (two.map_id, two.size) == (engine.get("one").map_id, 2 * MIB)
    assert read(engine, "two", 0, 2 * MIB) == b"old" + bytes(2 * MIB - 3)


def test_a_taken_name_freezes_nothing(engine):
    volume = make_volume(engine, content=b"old")
    with pytest.raises(AlreadyExists):
        engine.snapshot("volume", "volume")
    assert engine.get("volume").map_id == volume.map_id


def test_snapshot_with_an_id_may_be_repeated(engine):
    make_volume(engine, content=b"old")
    fisk_id = str(uuid.uuid4())
    taken = engine.snapshot("volume", "snap", id=fisk_id)
    assert taken.id == fisk_id
    assert engine.snapshot("volume", "snap", id=fisk_id) == taken
    with pytest.raises(AlreadyExists):
        engine.snapshot("snap", "snap", id=fisk_id)


def test_snapshot_beside_a_writer_that_cannot_be_asked(engine):
    make_volume(engine, content=b"old")
    with engine.open_disk("volume", writable=True) as disk:
        with pytest.raises(InUse, match="cannot be asked"):
            engine.snapshot("volume", "snap")
        disk.write(0, b"new")
    assert engine.snapshot("volume", "snap").state is State.FROZEN
    assert read(engine, "snap", 0, 3) == b"new"


def test_snapshot_beside_readers(engine):
    make_volume(engine, content=b"old")
    with engine.open_disk("volume") as reader:
        engine.snapshot("volume", "snap")
        engine.settle()
        assert reader.read(0, 3) == b"old"


def test_a_group_is_taken_in_one_transaction(engine):
    for name in ("a", "b", "c"):
        make_volume(engine, name, content=name.encode())
    engine.set("c", frozen=True)
    make_volume(engine, "d")
    before = engine.catalog.version()
    taken = engine.group_snapshot([(name, f"{name}-s") for name in "abcd"])
    assert [each.name for each in taken] == ["a-s", "b-s", "c-s", "d-s"]
    assert engine.catalog.version() == before + 2, "one of them to give the untouched Fisk a log"
    for name in "abc":
        assert read(engine, f"{name}-s", 0, 1) == name.encode()


def test_a_group_is_taken_whole_or_not_at_all(engine):
    for name in ("a", "b"):
        make_volume(engine, name, content=b"x")
    with engine.open_disk("b", writable=True), pytest.raises(InUse):
        engine.group_snapshot([("a", "a-s"), ("b", "b-s")])
    with pytest.raises(AlreadyExists):
        engine.group_snapshot([("a", "a-s"), ("b", "b")])
    with pytest.raises(NotFound):
        engine.group_snapshot([("a", "a-s"), ("nosuch", "s")])
    for pairs in ([("a", "s"), ("b", "s")], [("a", "s"), (engine.get("a").id, "t")]):
        with pytest.raises(InvalidValue):
            engine.group_snapshot(pairs)
    assert engine.group_snapshot([]) == []
    assert [fisk.name for fisk in engine.list()] == ["a", "b"]


# Clones


def test_a_clone_costs_no_file_until_written(engine):
    make_volume(engine, content=b"old")
    engine.set("volume", frozen=True)
    engine.settle()
    before = {kind: paths_in(engine.home.pool("default"), kind) for kind in ("layers", "logs")}
    (clone,) = engine.clone("volume", "clone", role="disk", attributes={"k": "v"})
    assert (clone.state, clone.role, clone.size, clone.attributes) == (State.LIVE, "disk", MIB, {"k": "v"})
    assert clone == engine.get("clone")
    assert read(engine, "clone", 0, 3) == b"old"
    assert before == {kind: paths_in(engine.home.pool("default"), kind) for kind in ("layers", "logs")}
    write(engine, "clone", 1, b"E")
    assert read(engine, "clone", 0, 3) == b"oEd"
    assert read(engine, "volume", 0, 3) == b"old"


def test_many_clones_are_one_transaction(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    before = engine.catalog.version()
    made = engine.clone("snap", "c", count=700)
    assert engine.catalog.version() == before + 1
    assert [fisk.name for fisk in made] == [f"c-{number}" for number in range(1, 701)]
    assert len({fisk.map_id for fisk in made}) == 700
    write(engine, "c-7", 0, b"new")
    assert read(engine, "c-8", 0, 3) == b"old"


def test_one_taken_name_prevents_all_clones(engine):
    make_volume(engine)
    make_volume(engine, "c-5")
    with pytest.raises(AlreadyExists, match="c-5"):
        engine.clone("volume", "c", count=10)
    assert len(engine.list()) == 2


def test_clone_of_a_live_fisk_freezes_it_and_leaves_no_other_fisk(engine):
    make_volume(engine, content=b"old")
    engine.clone("volume", "clone")
    write(engine, "volume", 0, b"new")
    write(engine, "clone", 3, b"!")
    assert read(engine, "clone", 0, 4) == b"old!"
    assert read(engine, "volume", 0, 4) == b"new\0"
    assert [fisk.name for fisk in engine.list()] == ["volume", "clone"]
    engine.settle()
    assert read(engine, "clone", 0, 4) == b"old!"
    assert engine.check().ok


def test_clone_of_a_clone_nobody_touched(engine):
    make_volume(engine, content=b"old")
    engine.clone("volume", "one")
    engine.clone("one", "two")
    engine.delete("volume", "one")
    engine.settle()
    assert read(engine, "two", 0, 3) == b"old"


def test_a_clone_may_be_larger_and_not_smaller(engine):
    make_volume(engine, content=b"old")
    engine.clone("volume", "clone", size=3 * MIB)
    write(engine, "clone", 3 * MIB - 3, b"end")
    assert read(engine, "clone", 0, 3 * MIB) == b"old" + bytes(3 * MIB - 6) + b"end"
    with pytest.raises(InvalidValue):
        engine.clone("volume", "small", size=MIB - 512)


@pytest.mark.parametrize("count", [0, -1, 1_000_000])
def test_counts_that_make_no_sense(engine, count):
    make_volume(engine)
    with pytest.raises(InvalidValue):
        engine.clone("volume", "c", count=count)


def test_clone_with_an_id_may_be_repeated(engine):
    make_volume(engine, content=b"old")
    fisk_id = str(uuid.uuid4())
    made = engine.clone("volume", "clone", id=fisk_id)
    assert engine.clone("volume", "clone", id=fisk_id) == made
    with pytest.raises(InvalidValue):
        engine.clone("volume", "clone", id=fisk_id, count=2)


# Diff


def test_diff_of_a_lineage(engine):
    make_volume(engine, content=b"a" * 8 * BLOCK)
    engine.snapshot("volume", "one")
    with engine.open_disk("volume", writable=True) as disk:
        disk.write(2 * BLOCK, b"b" * BLOCK)
        disk.trim(4 * BLOCK, 2 * BLOCK)
    engine.snapshot("volume", "two")
    found = [(each.offset, each.length, each.change) for each in engine.diff("one", "two")]
    assert found == [(2 * BLOCK, BLOCK, Change.DATA), (4 * BLOCK, 2 * BLOCK, Change.ZERO)]
    assert list(engine.diff("two", "two")) == []
    assert list(engine.diff("two", "volume")) == [], "nothing was written since"


def test_diff_of_strangers(engine):
    make_volume(engine, "a", content=b"a" * BLOCK)
    make_volume(engine, "b", content=b"b" * 2 * BLOCK)
    assert [(each.offset, each.length) for each in engine.diff("a", "b")] == [(0, 2 * BLOCK)]
    engine.create("other", MIB)
    with pytest.raises(InvalidValue):
        list(engine.diff("a", "other"))


# Revert


@pytest.mark.parametrize("settled", [False, True])
def test_revert_takes_content_and_size(engine, settled):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    write(engine, "volume", 0, b"new")
    engine.resize("volume", 2 * MIB)
    if settled:
        engine.settle()
    reverted = engine.revert("volume", "snap")
    assert (reverted.size, reverted.name) == (MIB, "volume")
    assert read(engine, "volume", 0, 3) == b"old"
    write(engine, "volume", 0, b"again")
    assert read(engine, "snap", 0, 5) == b"old\0\0"
    assert engine.check().ok


def test_revert_removes_what_nobody_has_any_more(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    engine.settle()
    before = paths_in(engine.home.pool("default"), "layers")
    write(engine, "volume", 0, b"new")
    engine.revert("volume", "snap")
    assert paths_in(engine.home.pool("default"), "layers") == before


def test_revert_to_any_fisk_also_a_live_one(engine):
    make_volume(engine, "a", content=b"aaa")
    make_volume(engine, "b", content=b"bbb")
    engine.revert("a", "b")
    write(engine, "b", 0, b"ccc")
    assert read(engine, "a", 0, 3) == b"bbb"
    make_volume(engine, "empty")
    engine.revert("b", "empty")
    assert read(engine, "b", 0, 3) == b"\0\0\0"


def test_reverts_that_cannot_be(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    engine.create("other", MIB)
    with pytest.raises(ReadOnly):
        engine.revert("snap", "volume")
    with pytest.raises(InvalidValue):
        engine.revert("volume", "other")
    with pytest.raises(InvalidValue):
        engine.revert("volume", "volume")
    with engine.open_disk("volume", writable=True), pytest.raises(InUse):
        engine.revert("volume", "snap")
    with engine.open_disk("volume"), pytest.raises(InUse):
        engine.revert("volume", "snap")


def test_revert_within_one_pool_only(engine, tmp_path):
    engine.create_pool("other", options={"path": str(tmp_path / "other")})
    engine.create("a", MIB, **TINY)
    engine.create("b", MIB, pool="other", **TINY)
    with pytest.raises(InvalidValue, match="pools"):
        engine.revert("a", "b")


# Resize


def test_grow_reads_zeros(engine):
    make_volume(engine, content=b"old", size=MIB)
    assert engine.resize("volume", 2 * MIB).size == 2 * MIB
    write(engine, "volume", 2 * MIB - 1, b"x")
    assert read(engine, "volume", 0, 2 * MIB) == b"old" + bytes(2 * MIB - 4) + b"x"


@pytest.mark.parametrize("new_size", [PAGE, PAGE + BLOCK, 512])
@pytest.mark.parametrize("settled", [False, True])
def test_shrink_then_grow_reads_zeros(engine, new_size, settled):
    make_volume(engine, content=b"x" * MIB)
    with pytest.raises(InvalidValue, match="loses"):
        engine.resize("volume", new_size)
    engine.resize("volume", new_size, shrink=True)
    if settled:
        engine.snapshot("volume", "snap")
        engine.settle()
    engine.resize("volume", MIB)
    assert read(engine, "volume", 0, MIB) == b"x" * new_size + bytes(MIB - new_size)
    assert engine.check().ok


def test_shrink_inside_a_block_zeroes_its_rest(engine):
    engine.create("volume", 64 << 10, block_size=4096, page_size=16384)
    write(engine, "volume", 0, b"x" * (64 << 10))
    engine.resize("volume", 4096 + 512, shrink=True)
    engine.resize("volume", 64 << 10)
    assert read(engine, "volume", 0, 64 << 10) == b"x" * 4608 + bytes((64 << 10) - 4608)


def test_shrinking_a_clone_leaves_its_source_alone(engine):
    make_volume(engine, content=b"x" * MIB)
    engine.snapshot("volume", "snap")
    engine.clone("snap", "clone")
    engine.resize("clone", BLOCK, shrink=True)
    engine.resize("clone", MIB)
    assert read(engine, "clone", 0, MIB) == b"x" * BLOCK + bytes(MIB - BLOCK)
    assert read(engine, "snap", 0, MIB) == b"x" * MIB
    engine.delete("snap", "volume")
    engine.settle()
    assert read(engine, "clone", 0, MIB) == b"x" * BLOCK + bytes(MIB - BLOCK)


def test_shrinking_what_was_never_written(engine):
    make_volume(engine)
    assert engine.resize("volume", 512, shrink=True).size == 512
    assert read(engine, "volume", 0, 512) == bytes(512)


def test_resizing_beside_others(engine):
    make_volume(engine, content=b"x")
    with engine.open_disk("volume", writable=True), pytest.raises(InUse):
        engine.resize("volume", 2 * MIB)
    with engine.open_disk("volume"):
        engine.resize("volume", 2 * MIB)
        with pytest.raises(InUse):
            engine.resize("volume", MIB, shrink=True)
    for size in (0, 513):
        with pytest.raises(InvalidValue):
            engine.resize("volume", size)

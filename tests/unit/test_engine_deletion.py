# SPDX-License-Identifier: Apache-2.0
import pytest

from fisk_core.errors import AlreadyExists, Cancelled, InUse, NotFound
from fisk_core.model import State
from tests.engines import BLOCK, MIB, TINY, make_volume, paths_in, read, write


def files(engine):
    pool = engine.home.pool("default")
    return [name for folder in ("layers", "logs", "blobs") for name in paths_in(pool, folder)]


# Deletion


def test_deleting_everything_leaves_no_file(engine):
    make_volume(engine, content=b"a")
    engine.snapshot("volume", "one")
    write(engine, "volume", BLOCK, b"b")
    engine.snapshot("volume", "two")
    engine.clone("two", "clone", count=3)
    write(engine, "clone-2", 0, b"c")
    engine.settle()
    engine.delete(*[fisk.name for fisk in engine.list()])
    assert engine.list() == []
    assert files(engine) == []
    assert [path.name for path in engine.home.run.glob("*-*")] == []


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("victim", [0, 1, 2, 3])
def test_any_snapshot_of_a_line_can_go(engine, settled, victim):
    make_volume(engine)
    for number in range(4):
        write(engine, "volume", number * BLOCK, bytes([number + 1]) * BLOCK)
        engine.snapshot("volume", f"s{number}")
    if settled:
        engine.settle()
    engine.delete(f"s{victim}")
    engine.settle()
    for number in {0, 1, 2, 3} - {victim}:
        seen = read(engine, f"s{number}", 0, 4 * BLOCK)[::BLOCK]
        assert seen == bytes([*range(1, number + 2), *[0] * (3 - number)])
    assert read(engine, "volume", 0, 4 * BLOCK)[::BLOCK] == b"\1\2\3\4"
    assert engine.check().ok


def test_the_template_goes_and_the_clones_stay(engine):
    make_volume(engine, content=b"template")
    engine.set("volume", frozen=True)
    engine.clone("volume", "clone", count=50)
    write(engine, "clone-1", 0, b"T")
    engine.delete("volume")
    engine.settle()
    assert read(engine, "clone-1", 0, 8) == b"Template"
    assert read(engine, "clone-50", 0, 8) == b"template"
    engine.delete(*[f"clone-{number}" for number in range(1, 51)])
    assert files(engine) == []


def test_the_source_goes_and_the_snapshot_stays(engine):
    make_volume(engine, content=b"content")
    engine.snapshot("volume", "snap")
    engine.delete("volume")
    assert read(engine, "snap", 0, 7) == b"content"


def test_a_fisk_in_use_stays(engine):
    make_volume(engine, content=b"content")
    make_volume(engine, "other")
    for writable in (False, True):
        with engine.open_disk("volume", writable=writable), pytest.raises(InUse):
            engine.delete("other", "volume")
    assert len(engine.list()) == 2


def test_force_does_not_help_against_a_process_without_ears(engine, monkeypatch):
    monkeypatch.setattr("fisk_core.engine.access.STOP_SECONDS", 0.2)
    make_volume(engine)
    with engine.open_disk("volume", writable=True), pytest.raises(InUse, match="does not stop"):
        engine.delete("volume", force=True)


def test_what_is_not_there_cannot_be_deleted(engine):
    make_volume(engine)
    with pytest.raises(NotFound):
        engine.delete("volume", "nosuch")
    assert engine.get("volume")
    engine.delete("volume", "volume")


def test_a_name_is_free_again(engine):
    make_volume(engine, content=b"old")
    engine.delete("volume")
    make_volume(engine)
    assert read(engine, "volume", 0, 3) == bytes(3)


def test_hundreds_at_once(engine):
    make_volume(engine)
    engine.clone("volume", "c", count=450)
    engine.delete(*[f"c-{number}" for number in range(1, 451)])
    assert [fisk.name for fisk in engine.list()] == ["volume"]


# Building


def begin(engine, name="image", size=MIB, **options):
    return engine.begin_build(name, size=size, **TINY, **options)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_building_is_shown_when_it_is_finished(engine, frozen):
    with begin(engine, attributes={"k": "v"}) as building:
        building.disk.write(0, b"content")
        assert engine.list() == []
        with pytest.raises(NotFound):
            engine.get("image")
        with pytest.raises(AlreadyExists):
            make_volume(engine, "image")
        made = building.finish(size=MIB // 2, frozen=frozen, attributes={"l": "w"})
    assert (made.size, made.role, made.attributes) == (MIB // 2, "image", {"k": "v", "l": "w"})
    assert made.state is (State.FROZEN if frozen else State.LIVE)
    assert engine.get("image") == made
    assert read(engine, "image", 0, 7) == b"content"
    engine.settle()
    assert engine.check().ok


def test_an_aborted_building_leaves_nothing(engine):
    def attempt():
        with begin(engine) as building:
            building.disk.write(0, b"content")
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        attempt()
    assert files(engine) == []
    assert list(engine.home.run.glob("*-*")) == []
    make_volume(engine, "image")


def test_a_taken_name_leaves_no_building(engine):
    make_volume(engine, "image")
    before = files(engine)
    with pytest.raises(AlreadyExists):
        begin(engine)
    engine.settle()
    assert [each for each in files(engine) if each not in before] == [engine.get("image").id]
    assert list(engine.home.run.glob("*-*.lock")) == []

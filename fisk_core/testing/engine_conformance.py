# SPDX-License-Identifier: Apache-2.0
"""The tests each engine must pass: that of this process, and a daemon's client.

Subclass ``EngineConformance`` under a name that starts with ``Test`` and give it a fixture ``engine``:
something with the verbs of ``fisk_core.protocol.Verbs`` on a home directory without Fisks.  Pools
``second``, ``other`` and ``elsewhere`` are made.
"""

import io
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.model import Change, Extent, Fisk, PoolInfo, Role, State, TreeNode, Usage
from fisk_core.protocol import Verbs

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB
MISSING = "6f1c9a52-7d1e-4a55-9a0e-0c8f6f1f2a3b"
DATA = random.Random(3).randbytes(MIB)


def write(engine: Verbs, ref: str, offset: int, data: bytes) -> None:
    with engine.open_disk(ref, writable=True) as disk:
        disk.write(offset, data)


def read(engine: Verbs, ref: str, offset: int = 0, length: int | None = None) -> bytes:
    with engine.open_disk(ref) as disk:
        return disk.read(offset, disk.size - offset if length is None else length)


def names(fisks: "list[Fisk]") -> list[str]:
    return sorted(fisk.name for fisk in fisks)


def shape(nodes: "list[TreeNode]") -> dict[str, object]:
    """Give a forest as nested names."""
    return {node.fisk.name: shape(node.children) for node in nodes}


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what happens in the background."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Stopped(Exception):
    """What a progress callback raises to stop."""


def stop(done: int, total: int | None) -> None:
    raise Stopped


@contextmanager
def nothing_changed(engine: Verbs) -> Iterator[None]:
    before = engine.list()
    yield
    assert engine.list() == before


class EngineConformance:
    """Every verb, tried from outside."""

    # Creating and finding

    def test_create_and_get(self, engine: Verbs) -> None:
        labels = {"os": "none", "größe": "ja = nein"}
        made = engine.create("a", MIB, role="disk", attributes=labels, block_size=512, page_size=2048)
        assert (made.name, made.size, made.role, made.state) == ("a", MIB, "disk", State.LIVE)
        assert (made.block_size, made.page_size, dict(made.attributes)) == (512, 2048, labels)
        assert (made.pool, made.parent_id, made.frozen) == ("default", None, False)
        assert made.created_at.utcoffset() is not None
        assert engine.get("a") == engine.get(made.id) == made
        assert read(engine, "a") == bytes(MIB)

    def test_creating_again_under_the_same_id(self, engine: Verbs) -> None:
        chosen = str(uuid.uuid4())
        made = engine.create("a", MIB, id=chosen)
        assert made.id == chosen
        assert engine.create("a", MIB, id=chosen) == made
        with pytest.raises(errors.AlreadyExists):
            engine.create("a", 2 * MIB, id=chosen)
        with pytest.raises(errors.AlreadyExists):
            engine.create("a", MIB)
        assert engine.list() == [made]

    @pytest.mark.parametrize(
        ("name", "size", "options"),
        [
            ("", MIB, {}),
            ("../a", MIB, {}),
            ("a b", MIB, {}),
            (MISSING, MIB, {}),
            ("a", 0, {}),
            ("a", 1000, {}),
            ("a", 1 << 60, {}),
            ("a", MIB, {"role": "No Role"}),
            ("a", MIB, {"block_size": 1000}),
            ("a", MIB, {"page_size": 512}),
            ("a", MIB, {"id": "no-id"}),
            ("a", MIB, {"attributes": {"": "x"}}),
            ("a", MIB, {"attributes": {"x": "y" * (64 * KIB + 1)}}),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, engine: Verbs, name: str, size: int, options: dict[str, object]
    ) -> None:
        with nothing_changed(engine), pytest.raises((errors.InvalidValue, errors.LimitExceeded)):
            engine.create(name, size, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("ref", ["nothing", MISSING, "", "..", "a/b", "a?b", "é", "x" * 300])
    def test_what_is_not_there(self, engine: Verbs, ref: str) -> None:
        engine.create("a", MIB)
        with nothing_changed(engine):
            for verb in (
                lambda: engine.get(ref),
                lambda: engine.set(ref, role="image"),
                lambda: engine.snapshot(ref, "s"),
                lambda: engine.clone(ref, "c"),
                lambda: engine.revert(ref, "a"),
                lambda: engine.resize(ref, 2 * MIB),
                lambda: engine.delete("a", ref),
                lambda: engine.usage(ref),
                lambda: engine.tree(ref),
                lambda: engine.route(ref, 0),
                lambda: list(engine.diff("a", ref)),
                lambda: engine.open_disk(ref),
                lambda: engine.download(ref, io.BytesIO()),
            ):
                with pytest.raises(errors.NotFound):
                    verb()

    def test_list_filters(self, engine: Verbs) -> None:
        engine.create_pool("other")
        engine.create("web-1", MIB, attributes={"tier": "gold", "zone": "a"})
        engine.create("web-2", MIB, attributes={"tier": "gold"}, pool="other")
        engine.create("db", MIB, role="disk")
        engine.snapshot("db", "db-snap")
        assert [fisk.name for fisk in engine.list()] == ["web-1", "web-2", "db", "db-snap"]
        assert names(engine.list(name="web-*")) == ["web-1", "web-2"]
        assert names(engine.list(name="web-[2-9]")) == ["web-2"]
        assert names(engine.list(role="disk")) == ["db"]
        assert names(engine.list(state="frozen")) == ["db-snap"]
        assert names(engine.list(pool="other")) == ["web-2"]
        assert names(engine.list(attributes={"tier": "gold"})) == ["web-1", "web-2"]
        assert names(engine.list(attributes={"tier": "gold", "zone": "a"})) == ["web-1"]
        assert engine.list(name="web-*", role="disk") == []

    def test_long_lists_are_complete(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        made = engine.clone("a", "c", count=150)
        assert [fisk.name for fisk in made] == [f"c-{number}" for number in range(1, 151)]
        assert [fisk.name for fisk in engine.list(name="c-*")] == [fisk.name for fisk in made]
        assert len({fisk.id for fisk in engine.list()}) == 151
        assert len(engine.tree("a")[0].children) == 150

    # Changing

    def test_set(self, engine: Verbs) -> None:
        made = engine.create("a", MIB, attributes={"x": "1", "y": "2"})
        changed = engine.set("a", name="b", role="image", attributes={"x": None, "z": "3"})
        assert (changed.id, changed.name, changed.role) == (made.id, "b", "image")
        assert dict(changed.attributes) == {"y": "2", "z": "3"}
        assert engine.get("b") == changed
        engine.create("a", MIB)
        with pytest.raises(errors.AlreadyExists):
            engine.set("a", name="b")
        with pytest.raises(errors.InvalidValue):
            engine.set("a", name="no name")

    def test_freezing(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"kept")
        assert engine.set("a", frozen=True).state is State.FROZEN
        assert engine.set("a", frozen=True).frozen
        assert read(engine, "a", 0, 4) == b"kept"
        with pytest.raises(errors.ReadOnly):
            engine.open_disk("a", writable=True)
        with pytest.raises(errors.InvalidValue):
            engine.set("a", frozen=False)

    def test_resize(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, DATA)
        assert engine.resize("a", 2 * MIB).size == 2 * MIB
        assert read(engine, "a") == DATA + bytes(MIB)
        with pytest.raises(errors.InvalidValue):
            engine.resize("a", MIB)
        assert engine.resize("a", 512 * KIB, shrink=True).size == 512 * KIB
        engine.resize("a", MIB)
        assert read(engine, "a") == DATA[: 512 * KIB] + bytes(512 * KIB)

    # Snapshots and clones

    def test_snapshot(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"old")
        taken = engine.snapshot("a", "s", attributes={"why": "test"})
        assert (taken.role, taken.state, taken.parent_id) == ("snapshot", State.FROZEN, engine.get("a").id)
        assert dict(taken.attributes) == {"why": "test"}
        write(engine, "a", 0, b"new")
        assert (read(engine, "s", 0, 3), read(engine, "a", 0, 3)) == (b"old", b"new")
        with pytest.raises(errors.AlreadyExists):
            engine.snapshot("a", "s")

    def test_snapshot_again_under_the_same_id(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        chosen = str(uuid.uuid4())
        taken = engine.snapshot("a", "s", id=chosen)
        write(engine, "a", 0, b"new")
        assert engine.snapshot("a", "s", id=chosen) == taken
        assert read(engine, "s", 0, 3) == bytes(3)
        with pytest.raises(errors.AlreadyExists):
            engine.snapshot("a", "t", id=chosen)

    def test_group_snapshot(self, engine: Verbs) -> None:
        for name in ("a", "b"):
            engine.create(name, MIB)
            write(engine, name, 0, name.encode())
        taken = engine.group_snapshot([("a", "as"), ("b", "bs")])
        assert [(each.name, each.parent_id) for each in taken] == [
            ("as", engine.get("a").id),
            ("bs", engine.get("b").id),
        ]
        assert (read(engine, "as", 0, 1), read(engine, "bs", 0, 1)) == (b"a", b"b")
        assert engine.group_snapshot([]) == []
        self._group_with_ids(engine)
        with nothing_changed(engine):
            with pytest.raises(errors.AlreadyExists):
                engine.group_snapshot([("a", "fresh"), ("b", "bs")])
            with pytest.raises(errors.InvalidValue):
                engine.group_snapshot([("a", "x"), ("a", "y")])
            with pytest.raises(errors.NotFound):
                engine.group_snapshot([("a", "x"), ("nothing", "y")])

    def _group_with_ids(self, engine: Verbs) -> None:
        ids, labels = [str(uuid.uuid4()), str(uuid.uuid4())], [{"of": "a"}, None]
        pairs = [("a", "at"), ("b", "bt")]
        taken = engine.group_snapshot(pairs, role="kept", attributes=labels, ids=ids)
        assert [(each.id, each.role, each.attributes) for each in taken] == [
            (ids[0], "kept", {"of": "a"}),
            (ids[1], "kept", {}),
        ]
        assert [engine.get(each).attributes for each in ids] == [{"of": "a"}, {}]
        with nothing_changed(engine):
            assert engine.group_snapshot(pairs, role="kept", attributes=labels, ids=ids) == taken
            with pytest.raises(errors.AlreadyExists):
                engine.group_snapshot(pairs, role="kept", ids=[ids[0], str(uuid.uuid4())])
            with pytest.raises(errors.AlreadyExists):
                engine.group_snapshot(pairs, ids=ids)
            for wrong in (ids[:1], [ids[0], ids[0]]):
                with pytest.raises(errors.InvalidValue):
                    engine.group_snapshot(pairs, ids=wrong)

    def test_clone(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"shared")
        (one,) = engine.clone("a", "one", role="disk", attributes={"x": "y"}, size=2 * MIB)
        assert (one.name, one.size, one.role, one.state) == ("one", 2 * MIB, "disk", State.LIVE)
        assert dict(one.attributes) == {"x": "y"}
        assert names(engine.clone("a", "many", count=3)) == ["many-1", "many-2", "many-3"]
        write(engine, "one", 0, b"own")
        assert (read(engine, "a", 0, 6), read(engine, "one", 0, 6)) == (b"shared", b"ownred")
        assert read(engine, "many-2", 0, 6) == b"shared"
        engine.delete("a")
        assert read(engine, "many-3", 0, 6) == b"shared"
        with nothing_changed(engine):
            with pytest.raises(errors.InvalidValue):
                engine.clone("one", "two", size=512)
            with pytest.raises(errors.InvalidValue):
                engine.clone("one", "two", count=0)
            with pytest.raises(errors.AlreadyExists):
                engine.clone("many-1", "one")

    def test_clone_again_under_the_same_id(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        chosen = str(uuid.uuid4())
        made = engine.clone("a", "c", id=chosen)
        assert engine.clone("a", "c", id=chosen) == made
        with pytest.raises(errors.AlreadyExists):
            engine.clone("a", "other", id=chosen)
        with pytest.raises(errors.InvalidValue):
            engine.clone("a", "d", count=2, id=str(uuid.uuid4()))

    def test_revert(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"old")
        engine.snapshot("a", "s")
        write(engine, "a", 0, b"new")
        assert engine.revert("a", "s").name == "a"
        assert read(engine, "a", 0, 3) == b"old"
        assert list(engine.diff("s", "a")) == []
        with pytest.raises(errors.FiskError):
            engine.revert("s", "a")

    def test_delete(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"kept")
        engine.snapshot("a", "s")
        engine.clone("s", "c", count=3)
        engine.delete("s", "a", engine.get("c-1").id)
        assert names(engine.list()) == ["c-2", "c-3"]
        assert read(engine, "c-2", 0, 4) == b"kept"
        engine.delete()
        with nothing_changed(engine), pytest.raises(errors.NotFound):
            engine.delete("c-2", "a")

    # Looking

    def test_diff(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, b"x" * 2 * BLOCK)
        engine.snapshot("a", "s")
        with engine.open_disk("a", writable=True) as disk:
            disk.write(16 * BLOCK, b"y" * BLOCK)
            disk.trim(0, BLOCK)
            disk.flush()
        assert list(engine.diff("s", "a")) == [
            Extent(0, BLOCK, Change.ZERO),
            Extent(16 * BLOCK, BLOCK, Change.DATA),
        ]
        assert list(engine.diff("a", "a")) == []

    def test_a_long_diff_is_complete(self, engine: Verbs) -> None:
        engine.create("a", 2 * MIB)
        engine.snapshot("a", "s")
        with engine.open_disk("a", writable=True) as disk:
            for number in range(150):
                disk.write(number * 2 * BLOCK, b"x" * BLOCK)
        wanted = [Extent(number * 2 * BLOCK, BLOCK, Change.DATA) for number in range(150)]
        assert list(engine.diff("s", "a")) == wanted

    def test_tree(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        engine.snapshot("a", "s1")
        engine.clone("s1", "c", count=2)
        engine.snapshot("c-1", "c-1-s")
        engine.create("b", MIB)
        below: dict[str, object] = {"s1": {"c-1": {"c-1-s": {}}, "c-2": {}}}
        assert shape(engine.tree()) == {"a": below, "b": {}}
        assert shape(engine.tree("s1")) == below
        assert engine.tree("b")[0].fisk == engine.get("b")
        engine.delete("s1")
        assert set(shape(engine.tree())) == {"a", "b", "c-1", "c-2"}

    def test_a_deep_tree(self, engine: Verbs) -> None:
        engine.create("f0", MIB)
        for number in range(100):
            engine.clone(f"f{number}", f"f{number + 1}")
        (node,) = engine.tree()
        depth = 0
        while node.children:
            (node,) = node.children
            depth += 1
        assert depth == 100

    def test_usage(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        assert engine.usage("a") == Usage(MIB, 0, 0)
        write(engine, "a", 0, b"x" * 4 * BLOCK)
        engine.snapshot("a", "s")
        write(engine, "a", 0, b"y" * BLOCK)
        assert engine.usage("s") == Usage(MIB, 4 * BLOCK, BLOCK)
        assert engine.usage("a") == Usage(MIB, 4 * BLOCK, BLOCK)

    def test_route(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 3 * BLOCK, b"here")
        found = engine.route("a", 3 * BLOCK)
        assert (found.offset, found.pool) == (3 * BLOCK, "default")
        assert found.layer_id
        assert found.path
        with open(found.path, "rb") as file:
            file.seek(found.file_offset or 0)
            assert file.read(4) == b"here"
        assert engine.route("a", 0).path is None
        for outside in (-1, MIB):
            with pytest.raises(errors.InvalidValue):
                engine.route("a", outside)

    # Using

    def test_disks(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        with engine.open_disk("a", writable=True) as disk:
            assert (disk.size, disk.block_size) == (MIB, BLOCK)
            disk.write(0, DATA)
            disk.write(1000, memoryview(b"odd"))
            disk.write_zeroes(8 * BLOCK, BLOCK)
            disk.flush()
            assert disk.read(999, 5) == DATA[999:1000] + b"odd" + DATA[1003:1004]
            for offset, length in ((MIB - 1, 2), (MIB + 1, 0), (-1, 1)):
                with pytest.raises(errors.InvalidValue):
                    disk.read(offset, length)
            with pytest.raises(errors.InvalidValue):
                disk.write(MIB - 1, b"12")
        assert read(engine, "a", 8 * BLOCK, BLOCK) == bytes(BLOCK)
        assert read(engine, "a", 9 * BLOCK) == DATA[9 * BLOCK :]

    def test_a_disk_open_for_reading(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        with engine.open_disk("a") as disk:
            with pytest.raises(errors.ReadOnly):
                disk.write(0, b"x")
            assert disk.read(0, 1) == b"\0"
        engine.snapshot("a", "s")
        with engine.open_disk("s") as one, engine.open_disk("s") as two:
            assert one.read(0, 10) == two.read(0, 10)

    # Moving bytes in and out

    def test_import_of_a_file(self, engine: Verbs, tmp_path: Path) -> None:
        source = tmp_path / "image"
        source.write_bytes(DATA + bytes(MIB) + DATA)
        seen: list[tuple[int, int | None]] = []
        made = engine.import_image(
            source, "i", attributes={"os": "none"}, progress=lambda *step: seen.append(step)
        )
        assert (made.role, made.state, made.size) == (Role.IMAGE, State.FROZEN, 3 * MIB)
        assert made.attributes["os"] == "none"
        assert seen[-1] == (3 * MIB, 3 * MIB)
        assert read(engine, "i") == source.read_bytes()
        assert engine.usage("i").referenced == 2 * MIB

    def test_import_of_a_stream(self, engine: Verbs) -> None:
        made = engine.import_image(io.BytesIO(DATA[:-1000]), "i", role="volume", frozen=False)
        assert (made.size, made.state) == (MIB - 512, State.LIVE)
        assert read(engine, "i") == (DATA[:-1000] + bytes(488))
        write(engine, "i", 0, b"live")

    def test_import_with_small_blocks(self, engine: Verbs) -> None:
        engine.import_image(io.BytesIO(DATA), "i", block_size=512, page_size=2048)
        assert engine.get("i").block_size == 512
        assert read(engine, "i") == DATA

    def test_import_and_download_of_other_formats(self, engine: Verbs, tmp_path: Path) -> None:
        if shutil.which("qemu-img") is None:
            pytest.skip("qemu-img is not installed")
        raw, packed, back = tmp_path / "raw", tmp_path / "packed.qcow2", tmp_path / "back.vmdk"
        raw.write_bytes(DATA + bytes(MIB))
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, packed], check=True)
        made = engine.import_image(str(packed), "i", format="qcow2", keep_original=True)
        assert made.size == 2 * MIB
        assert read(engine, "i") == raw.read_bytes()
        engine.download("i.original", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == packed.read_bytes()
        engine.download("i", back, format="vmdk", compress=True)
        subprocess.run(["qemu-img", "compare", raw, back], check=True, capture_output=True)

    def test_an_import_that_does_not_work_leaves_nothing(self, engine: Verbs, tmp_path: Path) -> None:
        engine.create("taken", MIB)
        (tmp_path / "lie").write_bytes(b"QFI\xfb" + bytes(1000))
        with nothing_changed(engine):
            for kind, source, name in (
                (errors.NotFound, tmp_path / "nothing", "i"),
                (errors.ImageRefused, tmp_path / "lie", "i"),
                (errors.ImageRefused, io.BytesIO(), "i"),
                (errors.AlreadyExists, io.BytesIO(DATA), "taken"),
                (errors.InvalidValue, io.BytesIO(DATA), "no name"),
            ):
                with pytest.raises(kind):
                    engine.import_image(source, name)
            with pytest.raises(Stopped):
                engine.import_image(io.BytesIO(DATA * 3), "i", progress=stop)
        engine.create("i", MIB)

    def test_download(self, engine: Verbs, tmp_path: Path) -> None:
        target = tmp_path / "target"
        engine.create("a", 2 * MIB)
        write(engine, "a", MIB // 2, DATA)
        engine.download("a", target)
        assert target.read_bytes() == bytes(MIB // 2) + DATA + bytes(MIB // 2)
        assert target.stat().st_blocks * 512 <= MIB + 64 * KIB
        with pytest.raises(errors.AlreadyExists):
            engine.download("a", target)
        stream = io.BytesIO()
        engine.download("a", stream)
        assert stream.getvalue() == target.read_bytes()
        with pytest.raises(errors.InvalidValue):
            engine.download("a", tmp_path / "other", format="nonsense")
        assert [each.name for each in tmp_path.iterdir()] == ["target"]

    def test_a_build_is_shown_when_it_is_finished(self, engine: Verbs) -> None:
        with engine.begin_build("b", size=4 * MIB, role="volume", attributes={"x": "1"}) as building:
            building.disk.write(0, DATA)
            building.disk.write(2 * MIB, DATA)
            with pytest.raises(errors.NotFound):
                engine.get("b")
            with pytest.raises(errors.AlreadyExists):
                engine.create("b", MIB)
            made = building.finish(size=3 * MIB, frozen=False, attributes={"y": "2"})
        assert (made.id, made.size, made.state) == (building.fisk_id, 3 * MIB, State.LIVE)
        assert dict(made.attributes) == {"x": "1", "y": "2"}
        assert read(engine, "b") == DATA + bytes(MIB) + DATA

    def test_a_build_that_is_not_finished_leaves_nothing(self, engine: Verbs) -> None:
        with nothing_changed(engine), engine.begin_build("b", size=4 * MIB) as building:
            building.disk.write(0, DATA)
            building.abort()
        engine.create("b", MIB)

    # Keeping things in order

    def test_check_scrub_collect(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        write(engine, "a", 0, DATA)
        engine.snapshot("a", "s")
        write(engine, "a", 0, DATA[: MIB // 2])
        engine.snapshot("a", "t")
        report = engine.check()
        assert (report.ok, report.problems, report.fisks) == (True, [], 3)
        seen: list[int] = []
        scrubbed = engine.scrub("s", "t", progress=lambda done, total: seen.append(done))
        assert scrubbed.ok
        assert scrubbed.bytes_read == MIB + MIB // 2
        assert seen
        engine.delete("s")
        # What is above has to be consolidated first, which happens in the background and keeps layers busy.
        wait_until(lambda: engine.collect(dry_run=True).reclaimed == MIB // 2)
        assert engine.collect(dry_run=True).dry_run
        given_back: list[int] = []

        def all_given_back() -> bool:
            given_back.append(engine.collect().reclaimed)
            return sum(given_back) == MIB // 2

        wait_until(all_given_back)
        assert engine.collect().reclaimed == 0
        with pytest.raises(errors.NotFound):
            engine.scrub("s")

    # Pools

    def test_pools(self, engine: Verbs, tmp_path: Path) -> None:
        folder = str(tmp_path / "second")
        made = engine.create_pool("second", "file", {"path": folder, "checksum": "crc32"})
        assert isinstance(made, PoolInfo)
        assert (made.name, made.driver, made.options["path"]) == ("second", "file", folder)
        assert made.total >= made.free > 0
        found = engine.pool("second")
        assert (found.name, found.id, found.options) == (made.name, made.id, made.options)
        assert "second" in [each.name for each in engine.pools()]
        assert engine.create("a", MIB, pool="second").pool == "second"
        for name in ("nothing", "../second"):
            with pytest.raises(errors.NotFound):
                engine.pool(name)
        with pytest.raises(errors.AlreadyExists):
            engine.create_pool("second")
        with pytest.raises(errors.NotFound):
            engine.create("b", MIB, pool="nothing")
        with pytest.raises(errors.FiskError):
            engine.create_pool("third", "nonsense")

    def test_options_of_a_pool_that_can_be_changed(self, engine: Verbs) -> None:
        engine.create_pool("changeable", options={"checksum": "crc32", "classes": "latency"})
        before = engine.pool("changeable").options
        for _ in range(2):
            changed = engine.set_pool("changeable", {"classes": "scratch,background", "prealloc": "no"})
        wanted = {**before, "classes": "scratch,background", "prealloc": False}
        assert changed.options == engine.pool("changeable").options == wanted
        assert engine.create("a", MIB, attributes={"class": "scratch"}).pool == "changeable"
        assert engine.create("b", MIB, attributes={"class": "latency"}).pool == "default"
        for bad in ({"checksum": "none"}, {"path": "/x"}, {"size": "1"}, {"prealloc": "perhaps"}):
            with pytest.raises(errors.InvalidValue):
                engine.set_pool("changeable", {"classes": "latency", **bad})
        assert engine.pool("changeable").options == wanted
        with pytest.raises(errors.NotFound):
            engine.set_pool("nothing", {"classes": "scratch"})
        assert engine.set_pool("changeable", {"classes": ""}).options["classes"] == ""

    def test_move(self, engine: Verbs) -> None:
        engine.create_pool("elsewhere")
        fisk_id = engine.create("a", MIB).id
        write(engine, "a", 0, DATA)
        engine.snapshot("a", "s")
        moved = engine.move("a", "elsewhere")
        assert (moved.id, moved.pool, engine.get("s").pool) == (fisk_id, "elsewhere", "default")
        write(engine, "a", 0, b"there")
        assert read(engine, "a") == b"there" + DATA[5:]
        assert read(engine, "s") == DATA
        with pytest.raises(errors.NotFound):
            engine.move("a", "nothing")
        with pytest.raises(errors.NotFound):
            engine.move("nothing", "elsewhere")

    def test_rescan(self, engine: Verbs) -> None:
        engine.create("a", MIB)
        with pytest.raises(errors.AlreadyExists):
            engine.rescan("default")
        report = engine.rescan("default", force=True)
        assert (report.pool, report.fisks, report.damaged) == ("default", [], [])

# SPDX-License-Identifier: Apache-2.0
"""Importing images of every kind, and cancelling, failing and being killed on the way."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, ImageRefused, InvalidValue, MissingTool, NoSpace, NotFound
from fisk_core.model import Fisk, Role, State
from fisk_core.services.importer import BYTES, FORMAT, IMAGE, ORIGINAL
from tests.engines import MIB, read
from tests.filesystems import mounted
from tests.nbd_servers import need

SIZE = 24 * MIB


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "home") as engine:
        yield engine


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse disk: data at both ends and in the middle, zeros written down, odd bytes before holes."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    data = random.Random(1).randbytes(2 * MIB)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, part in (
            (0, data),
            (9 * MIB + 512, data[:70_000]),
            (12 * MIB, bytes(MIB)),
            (SIZE - 1, b"!"),
        ):
            file.seek(offset)
            file.write(part)
    return path


def convert(source: Path, target: Path, driver: str, *options: str) -> Path:
    need("qemu-img")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", driver, *options, source, target], check=True)
    return target


def assert_holds(engine: Engine, name: str, expected: bytes) -> Fisk:
    fisk = engine.get(name)
    assert fisk.size == -(-len(expected) // 512) * 512
    content = read(engine, name, 0, fisk.size)
    assert content == expected + bytes(fisk.size - len(expected))
    return fisk


def assert_nothing_left(engine: Engine) -> None:
    """Neither Fisks nor files."""
    assert engine.list() == []
    engine.settle()
    pool = engine.home.pool("default")
    if pool.exists():
        left = [path for path in pool.rglob("*") if path.is_file() and path.name != "pool.json"]
        assert left == []


# Every format

FORMATS = {
    "raw": ("raw", ()),
    "qcow2": ("qcow2", ()),
    "qcow2 compressed": ("qcow2", ("-c",)),
    "qcow2 zstd": ("qcow2", ("-c", "-o", "compression_type=zstd")),
    "qcow2 v2": ("qcow2", ("-o", "compat=0.10")),
    "qcow2 clusters of 512": ("qcow2", ("-o", "cluster_size=512")),
    "qcow2 metadata": ("qcow2", ("-o", "preallocation=metadata")),
    "vmdk": ("vmdk", ()),
    "vmdk stream": ("vmdk", ("-o", "subformat=streamOptimized")),
    "vhd": ("vpc", ("-o", "force_size=on")),
    "vhdx": ("vhdx", ()),
    "vdi": ("vdi", ()),
    "vdi static": ("vdi", ("-o", "static=on")),
    "qed": ("qed", ()),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("way", ["file", "declared", "stream"])
def test_every_format_becomes_the_same_blocks(
    engine: Engine, raw: Path, tmp_path: Path, kind: str, way: str
) -> None:
    driver, options = FORMATS[kind]
    image = convert(raw, tmp_path / "image", driver, *options)
    seen: list[tuple[int, int | None]] = []
    if way == "stream":
        with image.open("rb") as file:
            fisk = engine.import_image(
                io.BytesIO(file.read()), "disk", progress=lambda *step: seen.append(step)
            )
    else:
        declared = driver if way == "declared" else None
        fisk = engine.import_image(image, "disk", format=declared, progress=lambda *step: seen.append(step))
    assert (fisk.state, fisk.role, fisk.name) == (State.FROZEN, Role.IMAGE, "disk")
    assert_holds(engine, "disk", raw.read_bytes())
    # Zeros are not stored, neither holes nor those that were written down.
    assert engine.usage("disk").referenced <= 2 * MIB + 72 * 1024 + 4096
    done = [step[0] for step in seen]
    assert done == sorted(set(done))
    assert seen[-1][1] in (seen[-1][0], None)


def test_a_fixed_vhd_is_one_when_declared(engine: Engine, raw: Path, tmp_path: Path) -> None:
    """Any guest can write such a trailer to the end of its disk, so finding one does not count."""
    image = convert(raw, tmp_path / "image", "vpc", "-o", "subformat=fixed,force_size=on")
    engine.import_image(image, "declared", format="vhd")
    assert_holds(engine, "declared", raw.read_bytes())
    engine.import_image(io.BytesIO(image.read_bytes()), "stream", format="vpc")
    assert_holds(engine, "stream", raw.read_bytes())
    engine.import_image(image, "undeclared")
    assert_holds(engine, "undeclared", image.read_bytes())


def test_an_installation_medium_is_raw(engine: Engine, tmp_path: Path) -> None:
    """Also one that boots from USB: an ISO file system and a partition table at once."""
    data = bytearray(MIB)
    data[510:512] = b"\x55\xaa"
    data[32768 : 32768 + 6] = b"\x01CD001"
    image = tmp_path / "medium.iso"
    image.write_bytes(data)
    for number, declared in enumerate((None, "iso", "raw")):
        engine.import_image(image, f"medium{number}", format=declared)
        assert_holds(engine, f"medium{number}", bytes(data))


def test_names_of_files_play_no_part(engine: Engine, raw: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a,b=c,file.filename=x", "json:{}", "nbd:host:1", "-c", "ünï cödé\n")):
        image = convert(raw, tmp_path / "image", "qcow2")
        odd = tmp_path / name
        image.rename(odd)
        engine.import_image(odd, f"disk{number}")
        assert_holds(engine, f"disk{number}", raw.read_bytes())


@pytest.mark.parametrize("length", [1, 511, 513, 4097, MIB + 1, 3 * MIB + 4095])
def test_sizes_are_padded_and_the_exact_one_kept(engine: Engine, tmp_path: Path, length: int) -> None:
    data = random.Random(length).randbytes(length)
    path = tmp_path / "image"
    path.write_bytes(data)
    for name, source in (("file", path), ("stream", io.BytesIO(data))):
        assert assert_holds_after(engine, source, name, data).attributes == {BYTES: str(length)}
    # What is live may be written to, so its exact length means nothing.
    assert engine.import_image(path, "live", frozen=False).attributes == {}


def assert_holds_after(engine: Engine, source: Path | io.BytesIO, name: str, data: bytes) -> Fisk:
    engine.import_image(source, name)
    return assert_holds(engine, name, data)


def test_other_geometries(engine: Engine, raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "image", "qcow2")
    for number, block in enumerate((512, 65536, 1 << 20)):
        for source in (raw, image):
            name = f"{source.name}-{number}"
            engine.import_image(source, name, block_size=block, page_size=2 * MIB)
            assert_holds(engine, name, raw.read_bytes())


def test_options_reach_the_fisk(engine: Engine, raw: Path) -> None:
    wanted = "0f4b8a52-0a6b-4b0e-9a3c-1f2d3c4b5a69"
    fisk = engine.import_image(raw, "x", role="disk", frozen=False, attributes={"a": "b"}, id=wanted)
    assert (fisk.id, fisk.role, fisk.state) == (wanted, "disk", State.LIVE)
    assert fisk.attributes == {"a": "b"}
    with engine.open_disk("x", writable=True) as disk:
        disk.write(0, b"changed")
    assert read(engine, "x", 0, 7) == b"changed"


# Streams


def test_standard_input_and_pipes(engine: Engine, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = raw.read_bytes()
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        engine.import_image("-", "piped", size=SIZE)
        feeder.join()
        assert_holds(engine, "piped", content)


def test_standard_input_that_is_a_file_keeps_its_holes(
    engine: Engine, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        steps: list[int | None] = []
        engine.import_image("-", "redirected", progress=lambda _, total: steps.append(total))
    assert set(steps) == {SIZE}
    assert_holds(engine, "redirected", raw.read_bytes())


# The original bytes


@pytest.mark.parametrize("driver", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("way", ["file", "stream"])
def test_the_original_is_kept_byte_for_byte(
    engine: Engine, raw: Path, tmp_path: Path, driver: str, way: str
) -> None:
    image = convert(raw, tmp_path / "image", driver)
    with image.open("ab") as file:
        file.write(b"tail" if driver == "raw" else b"")
    content = image.read_bytes()
    source = image if way == "file" else io.BytesIO(content)
    fisk = engine.import_image(source, "disk", keep_original=True)
    original = engine.get("disk.original")
    assert (original.role, original.state) == (Role.ORIGINAL, State.FROZEN)
    assert (fisk.attributes[ORIGINAL], original.attributes[IMAGE]) == (original.id, fisk.id)
    assert original.attributes[FORMAT] == driver
    target = tmp_path / "again"
    engine.download("disk.original", target)
    assert target.read_bytes() == content
    # Each lives without the other.
    engine.delete("disk")
    engine.collect()
    target.unlink()
    engine.download("disk.original", target)
    assert target.read_bytes() == content


def test_keeping_a_raw_original_costs_nothing(engine: Engine, raw: Path) -> None:
    engine.import_image(raw, "disk", keep_original=True)
    assert engine.usage("disk.original").exclusive == 0


def test_twin_is_made_of_what_is_not_raw_only(engine: Engine, raw: Path, tmp_path: Path) -> None:
    engine.import_image(raw, "plain", twin={"mine": "yes"})
    assert [fisk.name for fisk in engine.list()] == ["plain"]
    packed = convert(raw, tmp_path / "packed", "qcow2")
    image = engine.import_image(packed, "disk", twin={"mine": "yes"})
    twin = engine.get(image.attributes[ORIGINAL])
    assert (twin.attributes["mine"], twin.attributes[IMAGE]) == ("yes", image.id)
    assert (twin.name, twin.role) == ("disk.original", Role.ORIGINAL)


def test_taken_names_are_noticed_before_the_work(engine: Engine, raw: Path) -> None:
    engine.create("taken", MIB)
    engine.create("other.original", MIB)
    steps: list[int] = []
    for name in ("taken", "other"):
        with pytest.raises(AlreadyExists):
            engine.import_image(raw, name, keep_original=True, progress=lambda done, _: steps.append(done))
    assert steps == []
    assert {fisk.name for fisk in engine.list()} == {"taken", "other.original"}


# Failing


def test_what_cannot_be_imported(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ImageRefused, match="empty"):
        engine.import_image(tmp_path / "empty", "x")
    with pytest.raises(ImageRefused, match="empty"):
        engine.import_image(io.BytesIO(), "x")
    with pytest.raises(NotFound):
        engine.import_image(tmp_path / "nothing", "x")
    with pytest.raises(InvalidValue, match="not a format"):
        engine.import_image(tmp_path / "empty", "x", format="floppy")
    with pytest.raises(InvalidValue, match="not a name"):
        engine.import_image(io.BytesIO(b"x" * 512), "no/name")
    assert_nothing_left(engine)


class Stop(Exception):
    """Raised by a callback that wants the work to end."""


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
@pytest.mark.parametrize("way", ["file", "stream"])
@pytest.mark.parametrize("keep_original", [False, True])
def test_cancelling_at_any_step_leaves_nothing(
    engine: Engine, raw: Path, tmp_path: Path, kind: str, way: str, keep_original: bool
) -> None:
    image = convert(raw, tmp_path / "image", kind)
    content = image.read_bytes()

    def attempt(limit: int) -> bool:
        """Import, stopping after ``limit`` steps; says whether it came so far."""
        left = limit

        def progress(done: int, total: int | None) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Stop

        source = image if way == "file" else io.BytesIO(content)
        try:
            engine.import_image(source, "disk", progress=progress, keep_original=keep_original)
        except Stop:
            assert_nothing_left(engine)
            return True
        return False

    limit = 0
    while attempt(limit):
        limit += 1 + limit // 2
    assert limit > 1
    assert_holds(engine, "disk", raw.read_bytes())


def test_a_full_pool_leaves_nothing(tmp_path: Path, raw: Path) -> None:
    with mounted("tmpfs", 8 * MIB, tmp_path) as folder, Engine.open(folder / "home") as engine:
        big = tmp_path / "big"
        big.write_bytes(random.Random(3).randbytes(10 * MIB))
        for source in (big, io.BytesIO(big.read_bytes()), convert(big, tmp_path / "image", "qcow2")):
            with pytest.raises(NoSpace):
                engine.import_image(source, "disk")
            assert_nothing_left(engine)
        engine.import_image(raw, "disk")
        assert_holds(engine, "disk", raw.read_bytes())


def test_a_killed_import_is_swept(engine: Engine, tmp_path: Path) -> None:
    """The process dies in the middle; the next one to look finds the name free and nothing left."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom fisk_core.engine import Engine\n"
        "def stuck(done, total):\n"
        "    if done > 2 << 20:\n"
        "        print('stuck', flush=True)\n        sys.stdin.read()\n"
        "Engine.open(Path(sys.argv[1])).import_image(sys.argv[2], 'disk', progress=stuck)\n"
    )
    image = tmp_path / "image"
    image.write_bytes(random.Random(4).randbytes(4 * MIB))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(engine.home.path), str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        assert engine.list() == []
        process.send_signal(signal.SIGKILL)
    engine.import_image(image, "disk")
    assert_holds(engine, "disk", image.read_bytes())
    engine.delete("disk")
    engine.check(repair=True)
    assert_nothing_left(engine)


def test_missing_tools_are_named(
    engine: Engine, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = convert(raw, tmp_path / "image", "qcow2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"Debian package (qemu-utils|util-linux)"):
        engine.import_image(image, "disk")
    engine.import_image(raw, "disk")
    assert_holds(engine, "disk", raw.read_bytes())


# Sharing


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_extents_are_shared_within_one_file_system(tmp_path: Path, fstype: str) -> None:
    with mounted(fstype, 400 * MIB, tmp_path) as folder:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
            file.seek(8 * MIB)
            file.write(random.Random(5).randbytes(32 * MIB))
            file.seek(60 * MIB)
            file.write(b"odd")
            file.truncate(64 * MIB + 1)
        os.sync()
        free = os.statvfs(folder).f_bfree * os.statvfs(folder).f_bsize
        with Engine.open(folder / "home") as engine:
            engine.import_image(image, "disk")
            assert_holds(engine, "disk", image.read_bytes())
            os.sync()
            used = free - os.statvfs(folder).f_bfree * os.statvfs(folder).f_bsize
            assert used < 8 * MIB
            # The image stays what it was, and the Fisk does when the image is changed.
            before = image.read_bytes()
            with image.open("r+b") as file:
                file.write(b"changed")
                file.seek(9 * MIB)
                file.write(b"changed")
            assert_holds(engine, "disk", before)

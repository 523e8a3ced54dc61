# SPDX-License-Identifier: Apache-2.0
"""Downloading Fisks: every format and way out, while they are served, cancelled, and onto full disks."""

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, InUse, InvalidValue, MissingTool, NoSpace, NotFound, PoolError
from fisk_core.services.exporter import FORMATS
from fisk_core.services.importer import BYTES
from tests.engines import MIB, serving, write
from tests.filesystems import mounted
from tests.nbd_servers import need

SIZE = 24 * MIB + 512


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "h") as engine:
        yield engine


@pytest.fixture
def content(engine: Engine) -> bytes:
    """Makes ``disk``: blocks of three layers, a zeroed range, holes, and a last block that is short."""
    chance = random.Random(11)
    model = bytearray(SIZE)
    engine.create("disk", SIZE)
    for number in range(3):
        with engine.open_disk("disk", writable=True) as disk:
            for _ in range(40):
                offset = chance.randrange(SIZE // 2)
                data = chance.randbytes(min(chance.choice([512, 5000, 300_000]), SIZE - offset))
                disk.write(offset, data)
                model[offset : offset + len(data)] = data
            disk.write_zeroes(MIB, 2 * MIB)
            model[MIB : 3 * MIB] = bytes(2 * MIB)
            disk.write(SIZE - 100, b"end")
            model[SIZE - 100 : SIZE - 97] = b"end"
        engine.snapshot("disk", f"disk@{number}")
    engine.set("disk", frozen=True)
    return bytes(model)


def assert_same(image: Path, driver: str, expected: bytes, folder: Path) -> None:
    need("qemu-img")
    subprocess.run(["qemu-img", "check", "-q", "-f", driver, image], check=False)
    raw = folder / "expected.raw"
    raw.write_bytes(expected)
    command = ["qemu-img", "compare", "-f", "raw", "-F", driver, raw, image]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [*FORMATS, "QCOW2"])
def test_every_format(engine: Engine, content: bytes, tmp_path: Path, name: str) -> None:
    steps: list[tuple[int, int | None]] = []
    target = tmp_path / "out"
    engine.download("disk", target, format=name, progress=lambda *step: steps.append(step))
    assert_same(target, {"vhd": "vpc"}.get(name, name.lower()), content, tmp_path)
    assert steps[-1] == (SIZE, SIZE)
    assert [step[0] for step in steps] == sorted({step[0] for step in steps})
    assert {path.name for path in tmp_path.iterdir()} == {"h", "out", "expected.raw"}


@pytest.mark.parametrize("name", ["qcow2", "vmdk"])
def test_compressed(engine: Engine, tmp_path: Path, name: str) -> None:
    engine.import_image(io.BytesIO(b"compress me " * (MIB // 3)), "text")
    target = tmp_path / "out"
    engine.download("text", target, format=name, compress=True)
    assert target.stat().st_size < MIB
    assert_same(target, name, b"compress me " * (MIB // 3), tmp_path)


def test_raw_is_sparse(engine: Engine, content: bytes, tmp_path: Path) -> None:
    engine.download("disk", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert (tmp_path / "out").stat().st_blocks * 512 < SIZE * 3 // 4


def test_downloads_come_back_as_they_were(engine: Engine, content: bytes, tmp_path: Path) -> None:
    for number, name in enumerate(FORMATS):
        engine.download("disk", tmp_path / f"out{number}", format=name)
        engine.import_image(tmp_path / f"out{number}", f"again{number}")
        assert list(engine.diff("disk", f"again{number}")) is not None
        with engine.open_disk(f"again{number}") as disk:
            assert disk.read(0, SIZE) == content


# Streams


def test_streams(engine: Engine, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = io.BytesIO()
    engine.download("disk", memory)
    assert memory.getvalue() == content
    with (tmp_path / "stdout").open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        engine.download("disk", "-")
    assert (tmp_path / "stdout").read_bytes() == content
    memory = io.BytesIO()
    engine.download("disk", memory, format="qcow2")
    (tmp_path / "image").write_bytes(memory.getvalue())
    assert_same(tmp_path / "image", "qcow2", content, tmp_path)


def test_a_pipe_by_name(engine: Engine, content: bytes, tmp_path: Path) -> None:
    path, seen = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: seen.append(path.read_bytes()))
    reader.start()
    engine.download("disk", path)
    reader.join()
    assert seen == [content]
    assert path.is_fifo()


def test_a_reader_that_goes_away(engine: Engine, content: bytes) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe, pytest.raises(PoolError, match="Broken pipe"):
        engine.download("disk", pipe)


def test_a_device_needs_permission(engine: Engine, content: bytes, tmp_path: Path) -> None:
    need("losetup")
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * (SIZE + MIB))
    attached = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        with pytest.raises(AlreadyExists):
            engine.download("disk", device)
        engine.download("disk", device, overwrite=True)
        engine.import_image(device, "from-device")
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert backing.read_bytes()[:SIZE] == content
    with engine.open_disk("from-device") as disk:
        assert disk.read(0, SIZE + MIB) == content + b"\xff" * MIB


# Exact lengths


@pytest.mark.parametrize("length", [1, 513, MIB + 100])
def test_the_exact_length_of_what_was_imported(engine: Engine, tmp_path: Path, length: int) -> None:
    data = random.Random(1).randbytes(length)
    engine.import_image(io.BytesIO(data), "odd")
    memory = io.BytesIO()
    engine.download("odd", memory)
    engine.download("odd", tmp_path / "out")
    assert memory.getvalue() == (tmp_path / "out").read_bytes() == data
    # A clone may write to its last sector, and does not inherit the length.
    engine.clone("odd", "clone")
    engine.download("clone", tmp_path / "clone")
    assert (tmp_path / "clone").stat().st_size == engine.get("clone").size


@pytest.mark.parametrize("claim", ["0", "1", "9999999", "-5", "x", "512", "1535"])
def test_a_length_that_makes_no_sense_is_not_believed(engine: Engine, tmp_path: Path, claim: str) -> None:
    engine.import_image(io.BytesIO(b"x" * 1024), "disk", attributes={BYTES: claim})
    engine.download("disk", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x" * 1024


# In use


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_served(engine: Engine, tmp_path: Path, name: str) -> None:
    engine.create("live", 8 * MIB)
    model = bytearray(8 * MIB)
    with serving(engine, "live") as (_, client):
        for offset in (0, 3 * MIB + 700, 8 * MIB - 10):
            client.write(offset, b"0123456789")
            model[offset : offset + 10] = b"0123456789"
        engine.download("live", tmp_path / "out", format=name)
        assert_same(tmp_path / "out", name, bytes(model), tmp_path)
        memory = io.BytesIO()
        engine.download("live", memory)
        assert memory.getvalue() == model
        client.write(0, b"still served")
        assert client.read(0, 12) == b"still served"


def test_in_use(engine: Engine, tmp_path: Path) -> None:
    write(engine, engine.create("live", MIB).name, 0, b"x")
    with engine.open_disk("live", writable=True):
        for name in ("raw", "qcow2"):
            with pytest.raises(InUse):
                engine.download("live", tmp_path / "out", format=name)
    assert not (tmp_path / "out").exists()
    engine.download("live", tmp_path / "out", format="qcow2")


def test_a_live_fisk_is_free_again_afterwards(engine: Engine, tmp_path: Path) -> None:
    write(engine, engine.create("live", MIB).name, 0, b"x")
    for number, name in enumerate(("raw", "qcow2")):
        engine.download("live", tmp_path / f"out{number}", format=name)
        write(engine, "live", 0, b"y")


# Failing


class Stop(Exception):
    """Raised by a callback that wants the work to end."""


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_cancelling_leaves_what_was_there(engine: Engine, content: bytes, tmp_path: Path, name: str) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before")
    for limit in (0, 1, 3, 6):
        steps = iter(range(limit))

        def progress(done: int, total: int | None, steps: Iterator[int] = steps) -> None:
            if next(steps, None) is None:
                raise Stop

        with pytest.raises(Stop):
            engine.download("disk", target, format=name, progress=progress, overwrite=True)
        assert target.read_bytes() == b"before"
        assert {path.name for path in tmp_path.iterdir()} == {"h", "out"}
    write(engine, engine.clone("disk", "clone")[0].name, 0, b"no lock was left")


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_full_disk(engine: Engine, content: bytes, tmp_path: Path, name: str) -> None:
    with mounted("tmpfs", 4 * MIB, tmp_path) as folder:
        with pytest.raises(NoSpace):
            engine.download("disk", folder / "out", format=name)
        assert os.listdir(folder) == []


def test_what_makes_no_sense(engine: Engine, content: bytes, tmp_path: Path) -> None:
    for options in ({"format": "floppy"}, {"compress": True}, {"format": "vdi", "compress": True}):
        with pytest.raises(InvalidValue):
            engine.download("disk", tmp_path / "out", **options)
    with pytest.raises(NotFound):
        engine.download("nothing", tmp_path / "out")
    with pytest.raises(NotFound):
        engine.download("disk", tmp_path / "no" / "out")
    with pytest.raises(InvalidValue, match="directory"):
        engine.download("disk", tmp_path)
    (tmp_path / "out").touch()
    for name in ("raw", "qcow2"):
        with pytest.raises(AlreadyExists):
            engine.download("disk", tmp_path / "out", format=name)
    assert (tmp_path / "out").stat().st_size == 0


def test_missing_tools_are_named(
    engine: Engine, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingTool, match="qemu-img is not installed"):
        engine.download("disk", tmp_path / "out", format="qcow2")
    engine.download("disk", tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == content


def test_odd_file_names(engine: Engine, content: bytes, tmp_path: Path) -> None:
    for name in ("a,b=c", "json:{}", "nbd:x", "-o", "with space\n"):
        target = tmp_path / name
        engine.download("disk", target, format="qcow2")
        target.rename(tmp_path / "plain")
        assert_same(tmp_path / "plain", "qcow2", content, tmp_path)


# Sharing


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_extents_are_shared_within_one_file_system(tmp_path: Path, fstype: str) -> None:
    data = random.Random(5).randbytes(32 * MIB)
    with mounted(fstype, 400 * MIB, tmp_path) as folder, Engine.open(folder / "h") as engine:
        engine.import_image(io.BytesIO(data + bytes(32 * MIB)), "disk")
        os.sync()
        free = os.statvfs(folder).f_bfree * os.statvfs(folder).f_bsize
        engine.download("disk", folder / "out")
        os.sync()
        used = free - os.statvfs(folder).f_bfree * os.statvfs(folder).f_bsize
        assert used < 8 * MIB
        assert (folder / "out").read_bytes() == data + bytes(32 * MIB)
        with (folder / "out").open("r+b") as file:
            file.write(b"changed")
        with engine.open_disk("disk") as disk:
            assert disk.read(0, 100) == data[:100]

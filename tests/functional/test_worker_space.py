# SPDX-License-Identifier: Apache-2.0
"""A full file system: clients get ENOSPC, flushes still work, nothing flushed is lost, and it goes on."""

import os

import pytest

from fisk_core.dataplane import protocol as p
from tests.disks import USUAL, make_pool, make_spec
from tests.filesystems import SMALLEST, mounted
from tests.servers import Served

MIB = 1 << 20
SIZE = 256 * MIB


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(tmp_path, request):
    """A small file system with a ballast file to remove, and a served Fisk far larger than it."""
    size = {"ext4": SMALLEST["ext4"] * 2, "tmpfs": 24 * MIB}[request.param]
    with mounted(request.param, size, tmp_path) as folder:
        (folder / "ballast").write_bytes(os.urandom(4 * MIB))
        with Served(make_spec(make_pool(folder / "pool"), SIZE, USUAL), tmp_path) as served:
            served.folder = folder
            yield served


def write_for_ever(file, data):
    while True:
        file.write(data)


def fill(folder):
    """Take the last byte of the file system."""
    with open(folder / "filler", "wb", buffering=0) as file:
        for size in (MIB, 4096, 512, 1):
            with pytest.raises(OSError, match="No space"):
                write_for_ever(file, b"f" * size)


@pytest.mark.parametrize("length", [4096, 64 << 10, MIB, 1000], ids=["block", "fast", "stream", "partial"])
def test_writing_until_it_is_full(disk, length):
    written = []
    with disk.raw(structured=True) as raw:
        for number in range(40_000):
            offset = number * (length + 512 if length % 4096 else length)
            error = raw.write(offset, number.to_bytes(4, "big") * (length // 4))
            if error:
                break
            written.append(offset)
        assert error == p.ENOSPC
        assert raw.call(p.CMD_FLUSH).error == 0, "what was acknowledged can be made durable"
        for number, offset in enumerate(written):
            assert raw.get(offset, length) == number.to_bytes(4, "big") * (length // 4)
        disk.kill()
    disk.start()
    with disk.raw() as raw:
        for number, offset in enumerate(written):
            assert raw.get(offset, length) == number.to_bytes(4, "big") * (length // 4)
        (disk.folder / "ballast").unlink()
        assert raw.write(SIZE - MIB, b"on" * 4096) == 0
        assert raw.call(p.CMD_FLUSH).error == 0


def test_a_flush_works_when_not_a_byte_is_left(disk):
    """The log keeps space for the records of everything that was acknowledged."""
    with disk.raw() as raw:
        for number in range(200):
            assert raw.write(number * MIB, b"r" * 4096) == 0
        fill(disk.folder)
        assert raw.write(0, b"o" * 4096) == 0, "a block that has its space may be overwritten"
        assert raw.call(p.CMD_FLUSH).error == 0
        errors = {raw.write(number * MIB + 8192, b"n" * 4096) for number in range(200)}
        assert p.ENOSPC in errors
        assert errors <= {0, p.ENOSPC}
        assert raw.call(p.CMD_FLUSH).error == 0
        disk.kill()
    disk.start()
    with disk.raw() as raw:
        assert raw.get(0, 4096) == b"o" * 4096
        assert all(raw.get(number * MIB, 4096) == b"r" * 4096 for number in range(1, 200))
        (disk.folder / "filler").unlink()
        assert raw.write(5 * MIB, b"free" * 1024) == 0
        assert raw.call(p.CMD_FLUSH).error == 0


def test_a_full_disk_can_be_opened_and_trimmed(disk):
    with disk.raw() as raw:
        for number in range(16):
            assert raw.write(number * MIB, b"t" * (256 << 10)) == 0
    disk.stop()
    fill(disk.folder)
    disk.start()
    with disk.raw() as raw:
        assert raw.get(0, 4096) == b"t" * 4096
        assert raw.write(100 * MIB, b"x" * 4096) == p.ENOSPC
        assert raw.call(p.CMD_FLUSH).error == 0
        (disk.folder / "filler").unlink()
        assert raw.call(p.CMD_TRIM, 0, 8 * MIB).error == 0
        assert raw.call(p.CMD_FLUSH).error == 0
        assert raw.write(100 * MIB, b"x" * 4096) == 0
        assert raw.get(0, 4096) == bytes(4096)
        assert raw.get(9 * MIB, 4096) == b"t" * 4096

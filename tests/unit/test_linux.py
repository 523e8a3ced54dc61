# SPDX-License-Identifier: Apache-2.0
"""The system calls Python lacks, on real files."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core import _linux
from tests.filesystems import MIB, SMALLEST, mounted


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    with mounted("ext4", SMALLEST["ext4"], tmp_path) as directory:
        yield directory


def test_punch_hole_zeroes_the_range_and_returns_its_space(ext4: Path) -> None:
    path = ext4 / "file"
    path.write_bytes(b"x" * MIB)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        before = os.stat(path).st_blocks
        _linux.punch_hole(file.fileno(), 100, MIB // 2)
    assert path.read_bytes() == b"x" * 100 + bytes(MIB // 2) + b"x" * (MIB // 2 - 100)
    assert os.stat(path).st_blocks <= before - (MIB // 2 - 8192) // 512


def test_zero_range_zeroes_and_keeps_space_and_size(ext4: Path) -> None:
    path = ext4 / "file"
    path.write_bytes(b"x" * MIB)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        _linux.zero_range(file.fileno(), 4096, 2 * MIB)
    assert path.read_bytes() == b"x" * 4096 + bytes(MIB - 4096)
    assert os.stat(path).st_blocks * 512 >= 2 * MIB


def test_fallocate_reserves_with_and_without_size(ext4: Path) -> None:
    path = ext4 / "file"
    with path.open("w+b") as file:
        _linux.fallocate(file.fileno(), _linux.FALLOC_FL_KEEP_SIZE, 0, MIB)
        assert (os.stat(path).st_size, os.stat(path).st_blocks * 512 >= MIB) == (0, True)
        _linux.fallocate(file.fileno(), 0, 0, MIB)
        assert os.stat(path).st_size == MIB


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [(0, 64 * MIB, errno.ENOSPC), (0, 0, errno.EINVAL), (-1, 1, errno.EINVAL), (1 << 62, 1, errno.EFBIG)],
)
def test_fallocate_raises_what_the_system_says(ext4: Path, offset: int, length: int, code: int) -> None:
    with (ext4 / "file").open("w+b") as file, pytest.raises(OSError) as caught:  # noqa: PT011 - by its errno
        _linux.fallocate(file.fileno(), 0, offset, length)
    assert caught.value.errno == code
    assert caught.value.strerror == os.strerror(code)


def test_fallocate_of_a_bad_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError) as caught:  # noqa: PT011 - by its errno
        _linux.punch_hole(file.fileno(), 0, 1)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_clone_range_puts_the_bytes_where_they_belong(tmp_path: Path, fstype: str) -> None:
    with mounted(fstype, SMALLEST[fstype], tmp_path) as directory:
        content = os.urandom(MIB)
        (directory / "source").write_bytes(content)
        with (directory / "source").open("rb") as source, (directory / "target").open("w+b") as target:
            _linux.clone_range(source.fileno(), 65536, 131072, target.fileno(), 262144)
            _linux.clone_range(source.fileno(), MIB - 65536, 0, target.fileno(), 0)
        expected = content[-65536:] + bytes(262144 - 65536) + content[65536 : 65536 + 131072]
        assert (directory / "target").read_bytes() == expected


def test_clone_range_where_there_is_no_reflink(ext4: Path) -> None:
    (ext4 / "source").write_bytes(b"x" * 4096)
    with (
        (ext4 / "source").open("rb") as source,
        (ext4 / "target").open("w+b") as target,
        pytest.raises(OSError) as caught,  # noqa: PT011 - by its errno
    ):
        _linux.clone_range(source.fileno(), 0, 4096, target.fileno(), 0)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_cached_pages_counts_what_is_in_the_page_cache(ext4: Path) -> None:
    with (ext4 / "file").open("w+b") as file:
        fd = file.fileno()
        os.pwrite(fd, b"x" * MIB, 0)
        try:
            assert _linux.cached_pages(fd, 0, MIB) == 256
        except OSError as exc:
            if exc.errno == errno.ENOSYS:
                pytest.skip("cachestat needs Linux 6.5")
            raise
        assert _linux.cached_pages(fd, 4096, 8192) == 2
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert _linux.cached_pages(fd, 0, MIB) == 0
        with pytest.raises(OSError) as caught:  # noqa: PT011 - by its errno
            _linux.cached_pages(-1, 0, 1)
        assert caught.value.errno == errno.EBADF

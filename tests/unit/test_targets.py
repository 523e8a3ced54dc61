# SPDX-License-Identifier: Apache-2.0
"""Where downloads go."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fisk_core.errors import AlreadyExists, InvalidValue, NotFound
from fisk_core.services.targets import new_file, opened_stream, write_all, write_zeros


def _make(path: Path, data: bytes, overwrite: bool = False, then: Callable[[], object] = list) -> None:
    with new_file(path, overwrite) as (fd, temporary):
        assert temporary.parent == path.parent
        os.write(fd, data)
        assert not path.exists() or path.read_bytes() != data
        then()


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    _make(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        _make(tmp_path / "out", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_what_is_there_stays_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(AlreadyExists):
        _make(path, b"new")
    assert path.read_bytes() == b"old"
    _make(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(AlreadyExists):
        _make(path, b"new", then=lambda: path.write_bytes(b"theirs"))
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        _make(path, b"half", overwrite=True, then=lambda: 1 // 0)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with new_file(tmp_path / "link", True) as (fd, _):
        os.write(fd, b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        _make(tmp_path / "no" / "out", b"x")


def test_what_is_a_stream(tmp_path: Path) -> None:
    with opened_stream(tmp_path / "new", False) as stream:
        assert stream is None
    with opened_stream("/dev/null", False) as stream:
        assert stream is not None
        write_all(stream, memoryview(b"gone"))
    memory = io.BytesIO()
    with opened_stream(memory, False) as stream:
        assert stream is memory
    with pytest.raises(InvalidValue), opened_stream(tmp_path, False):
        pass


def test_writing_to_whatever_takes_less(tmp_path: Path) -> None:
    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: object) -> int:
            self.data += bytes(data)[:7]  # type: ignore[call-overload]
            return min(7, len(data))  # type: ignore[arg-type]

    slow = Slow()
    write_all(slow, memoryview(b"0123456789" * 3))  # type: ignore[arg-type]
    write_zeros(slow, 20)  # type: ignore[arg-type]
    assert slow.data == b"0123456789" * 3 + bytes(20)

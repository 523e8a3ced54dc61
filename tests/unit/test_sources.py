# SPDX-License-Identifier: Apache-2.0
"""Where images come from: files with holes, streams, and how extents become pieces of work."""

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisk_core.errors import InvalidValue, NotFound, PoolError
from fisk_core.services.sources import data_extents, opened, pieces, pread_into, read_up_to

MIB = 1 << 20


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=8),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([8, 16, 64]),
    st.integers(1, 400),
)
def test_pieces_cover_the_extents_once(
    gaps: list[tuple[int, int]], block: int, chunk: int, size: int
) -> None:
    extents, at = [], 0
    for gap, length in gaps:
        if at + gap < size:
            extents.append((at + gap, length))
        at += gap + length
    wanted = {byte for offset, length in extents for byte in range(offset, min(offset + length, size))}
    seen: list[int] = []
    for offset, length in pieces(iter(extents), block, chunk, size):
        assert length > 0
        assert offset % block == 0
        assert offset // chunk == (offset + length - 1) // chunk
        seen += range(offset, offset + length)
    assert seen == sorted(set(seen))
    assert wanted <= set(seen) <= set(range(size))
    blocks = {byte // block for byte in wanted}
    assert {byte // block for byte in seen} == blocks


def test_extents_of_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(2 * MIB)
        file.write(b"x" * MIB)
    with opened(path) as source:
        assert source.fd is not None
        assert source.size == 8 * MIB
        found = list(data_extents(source.fd, source.size))
    # A file system may know holes only coarsely, or not at all: what matters is that data is covered.
    assert any(offset <= 2 * MIB and offset + length >= 3 * MIB for offset, length in found)
    assert sum(length for _, length in found) <= 8 * MIB


def test_a_file_that_ends_in_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.truncate(MIB)
    with opened(path) as source:
        assert source.fd is not None
        assert list(data_extents(source.fd, MIB)) in ([], [(0, MIB)])


def test_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file:
        with opened(file) as source:
            assert (source.fd, source.size) == (file.fileno(), 1000)
        file.read(1)
        with opened(file) as source:
            assert source.fd is None  # what was read already is not part of the image
    with opened(io.BytesIO(b"abc")) as source:
        assert source.stream is not None
        assert source.stream.read() == b"abc"


def test_a_pipe_by_name_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"z" * 100_000))
    writer.start()
    buffer = bytearray(200_000)
    with opened(path) as source:
        assert source.stream is not None
        assert read_up_to(source.stream, memoryview(buffer)) == 100_000
    writer.join()


def test_a_stream_that_does_not_wait_is_not_at_its_end() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"abc")
    with os.fdopen(reading, "rb", buffering=0) as pipe, pytest.raises(InvalidValue, match="non-blocking"):
        read_up_to(pipe, memoryview(bytearray(10)))
    os.close(writing)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound), opened(tmp_path / "nothing"):
        pass
    with pytest.raises(InvalidValue, match="directory"), opened(tmp_path):
        pass
    with pytest.raises(InvalidValue), opened("a\0b"):
        pass


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file, pytest.raises(PoolError, match="shorter"):
        pread_into(file.fileno(), memoryview(bytearray(2000)), 0)

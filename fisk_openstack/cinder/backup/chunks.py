# SPDX-License-Identifier: Apache-2.0
"""The chunks of one volume in a directory: files whose names are the SHA-256 of what they hold, compressed.

A chunk is made under another name, made durable and renamed, so one that is there is whole.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import zstandard

from fisk_core.errors import Corrupt, NotFound, from_oserror

SIZE = 4 << 20
"""Bytes of a chunk, but for the last one of a volume."""
_LEVEL = 1  # what is worth the time on the way to a disk


class Chunks:
    """``DIRECTORY/ab/abcdef…``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._touched: set[Path] = set()

    def put(self, data: bytes) -> tuple[str, int]:
        """Keep a chunk; gives its name and how many bytes were written, 0 if it was there.

        It is durable after ``flush``.  Raises NoSpace, PoolError.
        """
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        self._touched.add(path.parent)
        if path.exists():
            return name, 0
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
        with named("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            durably(path, packed)
        return name, len(packed)

    def get(self, name: str) -> bytes:
        """Give what a chunk holds; raises NotFound, Corrupt, PoolError."""
        path = self._path(name)
        with named("read", path):
            packed = path.read_bytes()
        try:
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=SIZE)
        except zstandard.ZstdError as problem:
            raise Corrupt(f"{path} is damaged: {problem}") from problem
        if hashlib.sha256(data).hexdigest() != name:
            raise Corrupt(f"{path} does not hold what its name says")
        return data

    def require(self, names: Set[str]) -> None:
        """Raise NotFound unless all the chunks are there."""
        for name in names:
            if not self._path(name).exists():
                raise NotFound(f"chunk {name} is missing in {self.directory}")

    def flush(self) -> None:
        """Make every chunk that was put durable."""
        if self._touched:
            sync(self.directory)
        while self._touched:
            sync(self._touched.pop())

    def sweep(self, needed: Set[str]) -> int:
        """Remove all but the chunks needed, and what was never finished; gives how many bytes."""
        freed = 0
        for path in list(self._files()):
            if path.name not in needed:
                with named("remove", path):
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def _files(self) -> Iterator[Path]:
        with named("list", self.directory):
            return self.directory.glob("*/*")

    def _path(self, name: str) -> Path:
        return self.directory / name[:2] / name


@contextmanager
def named(doing: str, path: Path) -> Iterator[None]:
    """Raise the typed error for an OSError, saying what was being done to which file."""
    try:
        yield
    except OSError as problem:
        raise from_oserror(problem, f"{doing} {path}") from problem


def durably(path: Path, data: bytes) -> None:
    """Make a file appear whole, its data durable; its name is when the directory is; raises OSError."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    with named("flush", directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

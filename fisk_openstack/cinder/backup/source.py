# SPDX-License-Identifier: Apache-2.0
"""What is backed up: a Fisk, of which it is known where data is and what has changed, or any other device."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from fisk_core.client import RemoteEngine
from fisk_core.model import Change, Extent, Fisk


class Source(ABC):
    """``size`` bytes that do not change while they are read; a context manager."""

    size: int

    @abstractmethod
    def extents(self) -> Iterator[Extent]:
        """Give what is data and what reads as zeros, ascending, without gaps."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Give ``length`` bytes from ``offset``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FiskSource(Source):
    """A frozen Fisk; attached when it is first looked at."""

    def __init__(self, engine: RemoteEngine, fisk: Fisk) -> None:
        self.size = fisk.size
        self._disk = engine.open_disk(fisk.id)

    def extents(self) -> Iterator[Extent]:
        return self._disk.extents()

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length)

    def close(self) -> None:
        self._disk.close()


class FileSource(Source):
    """A device of another storage; everything may be data.  It belongs to the caller."""

    def __init__(self, file: Any) -> None:
        self._file = file
        file.seek(0, os.SEEK_END)
        self.size = file.tell()

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size, Change.DATA)

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        parts = []
        while length and (part := self._file.read(length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """The caller does that."""


def pieces(extents: Iterator[Extent], size: int, limit: int) -> Iterator[Extent]:
    """Cut extents at ``size`` and into pieces within multiples of ``limit`` bytes."""
    for extent in extents:
        offset, end = extent.offset, min(extent.offset + extent.length, size)
        while offset < end:
            count = min(end, (offset // limit + 1) * limit) - offset
            yield Extent(offset, count, extent.change)
            offset += count

# SPDX-License-Identifier: Apache-2.0
"""What the kernel does with data that it could not write: it drops it, and never says so again.

Until a descriptor whose fsync failed is closed its file reads as written; then everything that was written
to the file since it was last made durable is gone, as when those pages leave the page cache.
"""

import ctypes
import os
import stat
from dataclasses import dataclass, field
from typing import Any

_pread, _pwrite, _open, _close, _fstat = os.pread, os.pwrite, os.open, os.close, os.fstat
"""as they are before anything comes between"""


@dataclass
class PageCache:
    """The bytes that were there before each write that is not durable yet."""

    _before: dict[tuple[int, int], list[tuple[int, bytes]]] = field(default_factory=dict)
    """by device and inode: (offset, what was there)"""
    _failed: set[int] = field(default_factory=set)
    """descriptors whose fsync failed"""

    def about_to(self, call: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        """Take notice of a call that is about to be made."""
        where = _written(call, arguments, more)
        if where is None:
            return
        fd, offset, length = where
        found = _fstat(fd)
        if stat.S_ISREG(found.st_mode):
            copy = _open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            try:
                old = _pread(copy, length, offset).ljust(length, b"\0")
            finally:
                _close(copy)
            self._before.setdefault((found.st_dev, found.st_ino), []).append((offset, old))

    def synced(self, fd: int) -> None:
        """All data of the file is durable."""
        found = _fstat(fd)
        self._before.pop((found.st_dev, found.st_ino), None)

    def failed(self, fd: int) -> None:
        """The file could not be made durable."""
        self._failed.add(fd)

    def has_failed(self, fd: int) -> bool:
        return fd in self._failed

    def closing(self, fd: int) -> None:
        """A descriptor is about to be closed."""
        if fd not in self._failed:
            return
        self._failed.discard(fd)
        found = _fstat(fd)
        before = self._before.pop((found.st_dev, found.st_ino), [])
        if not before:
            return
        copy = _open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            for offset, old in reversed(before):
                size = _fstat(copy).st_size
                if offset < size:
                    _pwrite(copy, old[: size - offset], offset)
        finally:
            _close(copy)


def _written(call: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> tuple[int, int, int] | None:
    """Give (descriptor, offset, bytes) that a call writes."""
    if call == "os.pwrite":
        return arguments[0], arguments[2], memoryview(arguments[1]).nbytes
    if call == "os.pwritev":
        return arguments[0], arguments[2], sum(memoryview(each).nbytes for each in arguments[1])
    if call == "os.splice" and "offset_dst" in more:
        return arguments[1], more["offset_dst"], arguments[2]
    if call == "os.copy_file_range":
        return arguments[1], arguments[4], arguments[2]
    if call == "libc.fallocate":
        fd, _, offset, length = (
            each.value if isinstance(each, ctypes._SimpleCData) else each for each in arguments
        )
        return fd, offset, length
    return None

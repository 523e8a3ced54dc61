# SPDX-License-Identifier: Apache-2.0
"""A layer or log as one sparse file, and blobs as plain files.

Nothing is cached here: what a call returned is in the page cache, as with a disk that has a write cache,
and ``flush`` makes it durable.
"""

import errno
import os
from collections.abc import Iterator

from fisk_core import _linux, errors
from fisk_core.pools._filesystem import FileSystem
from fisk_core.pools.base import BlobReader, Buffers, Device, WritableBuffers, check_range

_PUNCH = _linux.FALLOC_FL_PUNCH_HOLE | _linux.FALLOC_FL_KEEP_SIZE
_ZEROS = bytes(1 << 16)
_ZEROS_PER_CALL = 16
_IOV_MAX = 1024
_READ_MAX = 1 << 30
_CLOSED = (1 << 31) - 1
"""A descriptor no process can have: use after close fails with EBADF and never hits another file."""
_NOT_WRITABLE = frozenset({errno.EBADF, errno.EINVAL})
"""What the system calls say of a descriptor that was opened read-only."""


class FileDevice(Device):
    """An open file of a pool; ``path`` names it in errors."""

    def __init__(self, fd: int, path: str, writable: bool, file_system: FileSystem) -> None:
        """Take over ``fd``."""
        self.path = path
        self._fd = fd
        self._writable = writable
        self._file_system = file_system

    def __repr__(self) -> str:
        return f"<file {self.path}>"

    @property
    def size(self) -> int:
        return self._stat().st_size

    def allocated(self) -> int:
        return self._stat().st_blocks * 512

    def preadv(self, buffers: WritableBuffers, offset: int) -> int:
        rest: WritableBuffers = buffers
        total = done = 0
        try:
            while rest and (done := os.preadv(self._fd, rest[:_IOV_MAX], offset + total)):
                total += done
                rest = _after(rest, done)
        except OSError as exc:
            raise errors.from_oserror(exc, f"read {self.path} at {offset}") from exc
        return total

    def pwritev(self, buffers: Buffers, offset: int) -> int:
        rest = buffers
        total = 0
        try:
            while rest:
                done = os.pwritev(self._fd, rest[:_IOV_MAX], offset + total)
                total += done
                rest = _after(rest, done)
        except OSError as exc:
            raise self._write_error(exc, f"write {self.path} at {offset}") from exc
        return total

    def discard(self, offset: int, length: int) -> None:
        if not self._fallocate(_PUNCH, offset, length, "discard in"):
            self._write_zeros(offset, min(length, self.size - offset))

    def write_zeroes(self, offset: int, length: int) -> None:
        # Without KEEP_SIZE: the call itself extends the file, so no other thread's extension is cut off.
        if not self._fallocate(_linux.FALLOC_FL_ZERO_RANGE, offset, length, "write zeros to"):
            self._write_zeros(offset, length)

    def flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise errors.from_oserror(exc, f"flush {self.path}") from exc

    def truncate(self, size: int) -> None:
        check_range(0, size)
        try:
            os.ftruncate(self._fd, size)
        except OSError as exc:
            raise self._write_error(exc, f"truncate {self.path} to {size}") from exc

    def preallocate(self, offset: int, length: int) -> bool:
        return self._fallocate(_linux.FALLOC_FL_KEEP_SIZE, offset, length, "preallocate in")

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        check_range(offset, length)
        end = min(offset + length, self.size)
        while offset < end:
            start = self._seek(offset, os.SEEK_DATA)
            if start is None or start >= end:
                return
            hole = self._seek(start, os.SEEK_HOLE)
            offset = end if hole is None else min(hole, end)
            if offset > start:  # else another thread discarded it between the two calls
                yield start, offset - start

    def route(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        return [(self._fd, offset, length)]

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)

    def _stat(self) -> os.stat_result:
        try:
            return os.fstat(self._fd)
        except OSError as exc:
            raise errors.from_oserror(exc, f"stat {self.path}") from exc

    def _fallocate(self, mode: int, offset: int, length: int, doing: str) -> bool:
        """Give False where the file system lacks ``mode``; an empty range is done at once."""
        check_range(offset, length)
        if not length:
            return True
        try:
            return self._file_system.fallocate(self._fd, mode, offset, length)
        except OSError as exc:
            raise self._write_error(exc, f"{doing} {self.path} at {offset}") from exc

    def _write_zeros(self, offset: int, length: int) -> None:
        while length > 0:
            whole, rest = divmod(min(length, _ZEROS_PER_CALL * len(_ZEROS)), len(_ZEROS))
            done = self.pwritev([_ZEROS] * whole + [_ZEROS[:rest]], offset)
            offset, length = offset + done, length - done

    def _seek(self, offset: int, whence: int) -> int | None:
        """lseek(2) to data or a hole; None: there is none up to the end (or the file shrank meanwhile)."""
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return None
            raise errors.from_oserror(exc, f"look for data in {self.path}") from exc

    def _write_error(self, exc: OSError, what: str) -> errors.FiskError:
        if not self._writable and exc.errno in _NOT_WRITABLE:
            return errors.ReadOnly(f"{what}: it was opened for reading only")
        return errors.from_oserror(exc, what)


class FileBlob(BlobReader):
    """An open blob; the descriptor keeps its version alive."""

    def __init__(self, fd: int, path: str) -> None:
        """Take over ``fd``."""
        self._fd = fd
        self._path = path

    @property
    def size(self) -> int:
        try:
            return os.fstat(self._fd).st_size
        except OSError as exc:
            raise errors.from_oserror(exc, f"stat {self._path}") from exc

    def pread(self, length: int, offset: int) -> bytes:
        check_range(offset, length)
        parts = []
        try:
            # Usually one turn: read(2) gives less than 2 GiB at once, and Python makes room before it reads.
            while length and (part := os.pread(self._fd, min(length, _READ_MAX), offset)):
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except OSError as exc:
            raise errors.from_oserror(exc, f"read {self._path} at {offset}") from exc
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)


def _after(buffers: Buffers, done: int) -> list[memoryview]:
    """Give what is left of ``buffers`` after ``done`` bytes; a system call may do less than it is given."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest

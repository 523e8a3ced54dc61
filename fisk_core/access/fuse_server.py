# SPDX-License-Identifier: Apache-2.0
"""The process behind a FUSE file: ``python -m fisk_core.access.fuse_server URI FILE rw|ro``.

The file is not cached by the kernel, so what is read through it and through NBD is the same at any time: a
write is in the worker when it is acknowledged, ``fsync`` is a flush, punching a hole makes the range read as
zeros and gives its space back.  Its size is the Fisk's and cannot be set; setting the attribute
``user.fisk.refresh`` makes the server look how large the Fisk is now.
"""

import ctypes
import errno
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import mfusepy

from fisk_core import _linux
from fisk_core.access.link import CONNECTIONS, Link
from fisk_core.errors import FiskError

REFRESH = "user.fisk.refresh"
T = TypeVar("T")
LOG = logging.getLogger(__name__)


class FiskFile(mfusepy.Operations):  # type: ignore[misc]  # the library has no annotations
    """One regular file, which is all there is in its file system."""

    use_ns = True

    def __init__(self, link: Link, *, writable: bool) -> None:
        self._link, self._writable = link, writable
        self._owner = os.getuid(), os.getgid()
        self._mode = stat.S_IFREG | (0o600 if writable else 0o400)
        self._lock = threading.Lock()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path != "/":
            raise OSError(errno.ENOENT, path)
        size = self._link.size
        return {
            "st_mode": self._mode,
            "st_nlink": 1,
            "st_uid": self._owner[0],
            "st_gid": self._owner[1],
            "st_size": size,
            "st_blocks": -(-size // 512),
        }

    def open(self, path: str, flags: int) -> int:
        if not self._writable and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, path)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """What the library asks for; ``_Fuse`` answers without it."""
        found = bytearray(size)
        return bytes(found[: self.read_into(memoryview(found), offset)])

    def read_into(self, view: memoryview, offset: int) -> int:
        return _typed(lambda: self._link.read_into(offset, view))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        fitting = min(len(data), self._link.size - offset)
        if fitting <= 0:
            raise OSError(errno.ENOSPC, path)
        _typed(lambda: self._link.write(offset, data[:fitting]))
        return fitting

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        _typed(self._link.flush)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> int:
        if not self._writable:
            raise OSError(errno.EROFS, path)
        kind = mode & ~_linux.FALLOC_FL_KEEP_SIZE
        if kind not in (0, _linux.FALLOC_FL_PUNCH_HOLE, _linux.FALLOC_FL_ZERO_RANGE):
            raise OSError(errno.EOPNOTSUPP, path)
        fitting = min(length, self._link.size - offset)
        if fitting < length and kind != _linux.FALLOC_FL_PUNCH_HOLE:
            raise OSError(errno.ENOSPC, path)
        if kind and fitting > 0:
            keep = kind == _linux.FALLOC_FL_ZERO_RANGE
            _typed(lambda: self._link.zero(offset, fitting, no_hole=keep))
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """A device does not change its size; setting the one it has is harmless."""
        if length != self._link.size:
            raise OSError(errno.EOPNOTSUPP, path)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        if name != REFRESH:
            raise OSError(errno.EOPNOTSUPP, path)
        _typed(self._link.refresh)
        return 0

    def destroy(self, path: str) -> None:
        """The file was unmounted: make durable what was written, if there is still somebody to do it."""
        self._link.patience = 0.0
        try:
            self._link.flush()
        except FiskError as exc:
            LOG.warning("not flushed at the end: %s", exc)
        self._link.close()


class _Fuse(mfusepy.FUSE):  # type: ignore[misc]
    """Reads into the buffer that libfuse sends: a large read is three times as fast as by copying."""

    def read(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        buffer = (ctypes.c_char * size).from_address(ctypes.addressof(buf.contents))
        found: int = self.operations.read_into(memoryview(buffer).cast("B"), offset)
        return found


def _typed(work: Callable[[], T]) -> T:
    """Have errors be those of system calls."""
    try:
        return work()
    except FiskError as exc:
        LOG.warning("%s", exc)
        raise OSError(exc.errno, str(exc)) from exc


def main() -> None:
    uri, file, access = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    operations = FiskFile(Link(uri), writable=access == "rw")
    _Fuse(
        operations,
        file,
        foreground=True,
        fsname="fisk",
        subtype="fisk",
        allow_other=True,
        default_permissions=True,
        direct_io=True,
        attr_timeout=0,
        max_threads=CONNECTIONS,
        ro=access == "ro",
    )


if __name__ == "__main__":
    main()

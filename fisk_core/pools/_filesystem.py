# SPDX-License-Identifier: Apache-2.0
"""What the file system below a pool can do: learnt by trying, and remembered."""

import errno
import os

from fisk_core import _linux

UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
"""How file systems say that they lack a mode of fallocate(2)."""

_CANNOT_CLONE = UNSUPPORTED | {errno.EXDEV, errno.EINVAL, errno.ENOTTY}
"""How they say that they cannot share these extents: no reflink, another file system, unaligned."""

_PREALLOCATION_PAYS = frozenset({"ext4", "xfs"})
"""Where it saves an allocation per write.  Btrfs and overlays copy on write anyway, tmpfs pins memory."""


class FileSystem:
    """One per pool, shared by its devices.  A mode that failed once is not tried again."""

    def __init__(self, directory: str, preallocate: bool) -> None:
        """``preallocate`` False: never, even where it pays."""
        self._gaps: set[int] = set()
        self.preallocates = preallocate and type_of(directory) in _PREALLOCATION_PAYS
        if not self.preallocates:
            self._gaps.add(_linux.FALLOC_FL_KEEP_SIZE)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> bool:
        """Do fallocate(2); False if this file system lacks ``mode``.  Raises other OSErrors."""
        if mode in self._gaps:
            return False
        try:
            _linux.fallocate(fd, mode, offset, length)
        except OSError as exc:
            if exc.errno not in UNSUPPORTED:
                raise
            self._gaps.add(mode)
            return False
        return True


def type_of(path: str) -> str:
    """Give the type of the file system ``path`` is on, "" if the kernel does not tell (btrfs sub-volumes)."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return next((_type_field(line) for line in mounts if line.split(" ", 3)[2] == number), "")
    except FileNotFoundError:  # no /proc in this container
        return ""


def _type_field(line: str) -> str:
    """proc_pid_mountinfo(5): the fields after the optional ones, which a lone hyphen ends."""
    return line.partition(" - ")[2].split(" ", 1)[0]


def share(source_fd: int, source_offset: int, length: int, fd: int, offset: int) -> bool:
    """Make the range of ``fd`` share the extents of the source; False if that cannot be done.

    Raises other OSErrors.
    """
    if not length:  # which would mean "to the end" to the kernel
        return True
    try:
        _linux.clone_range(source_fd, source_offset, length, fd, offset)
    except OSError as exc:
        if exc.errno in _CANNOT_CLONE:
            return False
        raise
    return True


def clones(first: int, second: int) -> bool:
    """Try to share data of the open file ``first`` with ``second``; both are empty and on one file system.

    Where even that fails for another reason (full, read-only), nothing can be shared either.
    """
    try:
        os.write(first, bytes(1 << 16))  # whole blocks of any size, and too long to be stored inline
        return share(first, 0, 1 << 16, second, 0)
    except OSError:
        return False

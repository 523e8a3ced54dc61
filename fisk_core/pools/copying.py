# SPDX-License-Identifier: Apache-2.0
"""Copying between open files with as little work as the file systems allow."""

import errno
import os

from fisk_core.errors import from_oserror
from fisk_core.pools._filesystem import UNSUPPORTED

_CHUNK = 1 << 20
_LARGE = 1 << 30
_CANNOT_COPY = UNSUPPORTED | {errno.EXDEV, errno.EINVAL, errno.EPERM, errno.EBADF}
"""How copy_file_range(2) declines; if the descriptors themselves are bad, read and write say so too."""


def copy_range(source_fd: int, source_offset: int, fd: int, offset: int, length: int) -> int:
    """Copy ``length`` bytes; gives the bytes copied, fewer only at the end of the source.

    The kernel copies where it can: XFS and btrfs then share the extents, NFS lets the server do it.  Holes
    become zeros, so walk the source's data extents and copy those.  Raises NoSpace, PoolError.
    """
    try:
        done = _in_kernel(source_fd, source_offset, fd, offset, length)
        return done + _by_hand(source_fd, source_offset + done, fd, offset + done, length - done)
    except OSError as exc:
        raise from_oserror(exc, f"copy {length} bytes to offset {offset}") from exc


def _in_kernel(source_fd: int, source_offset: int, fd: int, offset: int, length: int) -> int:
    done = 0
    try:
        # Zero also means "not from this source" (files of /proc), so reading decides where the end is.
        while done < length and (
            step := os.copy_file_range(
                source_fd, fd, min(length - done, _LARGE), source_offset + done, offset + done
            )
        ):
            done += step
    except OSError as exc:
        if exc.errno not in _CANNOT_COPY:
            raise
    return done


def _by_hand(source_fd: int, source_offset: int, fd: int, offset: int, length: int) -> int:
    done = 0
    while done < length and (data := os.pread(source_fd, min(length - done, _CHUNK), source_offset + done)):
        view = memoryview(data)
        while view:
            step = os.pwrite(fd, view, offset + done)
            done, view = done + step, view[step:]
    return done

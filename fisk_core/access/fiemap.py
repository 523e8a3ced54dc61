# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a file lie on its file system's device (FS_IOC_FIEMAP).

Two files that have the same place for a block share it: what they read there is the same, without reading.
https://docs.kernel.org/filesystems/fiemap.html
"""

import fcntl
from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING

from fisk_core._numpy import np
from fisk_core.errors import from_oserror

if TYPE_CHECKING:
    import numpy.typing as npt

    Places = npt.NDArray[np.int64]

_FS_IOC_FIEMAP = 0xC020660B
_HEAD = Struct("=QQIIII")
"""start, length, flags, extents found, room for extents, 0"""
_EXTENT = Struct("=QQQQQIIII")
"""logical, physical and length in bytes, two reserved, flags, three reserved"""
_SYNC = 1
_COUNT = 512
_LAST, _UNWRITTEN = 0x1, 0x800
_VAGUE = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
"""unknown, not placed yet, encoded, encrypted, not aligned, inside metadata or a tail"""

HOLE, UNKNOWN = -1, -2


def places(fd: int, offset: int, length: int, block_size: int) -> "Places":
    """Give where each block of the range lies, in bytes; HOLE where it reads as zeros, UNKNOWN where untold.

    ``offset`` and ``length`` are whole blocks.  Raises Unsupported where the file system has no such call.
    """
    found = np.full(length // block_size, HOLE, np.int64)
    for logical, physical, size, flags in _extents(fd, offset, length):
        first = max(logical, offset)
        end = min(logical + size, offset + length)
        if flags & _UNWRITTEN or first >= end:
            continue
        start, stop = (first - offset) // block_size, -(-(end - offset) // block_size)
        if flags & _VAGUE or (logical - offset) % block_size:
            found[start:stop] = UNKNOWN
        else:
            begin = physical + first - logical
            found[start:stop] = begin + np.arange(stop - start, dtype=np.int64) * block_size
    return found


def _extents(fd: int, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    end = offset + length
    while offset < end:
        buffer = bytearray(_HEAD.size + _COUNT * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, offset, end - offset, _SYNC, 0, _COUNT, 0)
        try:
            fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        except OSError as exc:
            raise from_oserror(exc, "ask where a file lies") from exc
        count = _HEAD.unpack_from(buffer)[3]
        if not count:
            return
        for number in range(count):
            logical, physical, size, _, _, flags, *_ = _EXTENT.unpack_from(
                buffer, _HEAD.size + number * _EXTENT.size
            )
            yield logical, physical, size, flags
        if flags & _LAST:
            return
        offset = logical + size

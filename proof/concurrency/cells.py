# SPDX-License-Identifier: Apache-2.0
"""The registers of a disk: cells that each lie within one block, and the stamps that fill them.

Most blocks are one cell.  Every fourth is cut into several of odd lengths, so that requests which begin or
end there are not aligned to anything.  A cell is filled with 16 bytes over and over: its stamp, which names
one request of one client, and where it belongs.  Zeros are the stamp 0.
"""

import struct
from bisect import bisect_right

BLOCK = 4096
TORN = -1
"""what is not one stamp from beginning to end, or belongs elsewhere"""
_CUTS = (0, 500, 1646, 3596)
_EVERY = 4
_HEAD = struct.Struct(">QQ")
_TIMES = BLOCK // _HEAD.size
_ZEROS = bytes(BLOCK)
_SEQUENCE_BITS = 32
STAMP = (1 << 56) - 1
"""the bits of a stamp; above them a checker may keep its own"""


def stamp_of(client: int, sequence: int) -> int:
    """Give the stamp of one request; clients count from 1."""
    return client << _SEQUENCE_BITS | sequence


def tell(stamp: int) -> str:
    """Say whose stamp it is."""
    if stamp <= 0:
        return "zeros" if stamp == 0 else "no stamp"
    number = stamp & STAMP
    return f"client {number >> _SEQUENCE_BITS} request {number & ((1 << _SEQUENCE_BITS) - 1)}"


class Cells:
    """The cells of ``size`` bytes (whole blocks) of the disk ``disk``."""

    def __init__(self, size: int, disk: int) -> None:
        self.size, self.disk = size, disk
        self.bounds = [
            start + cut
            for block, start in enumerate(range(0, size, BLOCK))
            for cut in (_CUTS if block % _EVERY == 1 else (0,))
        ]
        self.bounds.append(size)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def below(self, size: int) -> int:
        """Give how many cells lie wholly below ``size`` bytes."""
        return bisect_right(self.bounds, size) - 1

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Give (offset, bytes) of cells that follow one another."""
        return self.bounds[first], self.bounds[first + count] - self.bounds[first]

    def trimmed(self, first: int, count: int) -> tuple[int, int]:
        """Give (first, count) of the cells that trimming these does forget: those of whole blocks."""
        offset, length = self.span(first, count)
        start, end = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        if start >= end:
            return first, 0
        begin = bisect_right(self.bounds, start) - 1
        return begin, bisect_right(self.bounds, end) - 1 - begin

    def fill(self, stamp: int, first: int, count: int) -> bytes:
        """Give the content of cells written by the request with that stamp."""
        bounds, where = self.bounds, self.disk << 32
        return b"".join(
            (_HEAD.pack(stamp, where | cell) * _TIMES)[: bounds[cell + 1] - bounds[cell]]
            for cell in range(first, first + count)
        )

    def stamps(self, data: bytes, first: int, count: int) -> list[int]:
        """Give the stamps in the content of cells, TORN for what is none."""
        bounds, base = self.bounds, self.bounds[first]
        return [
            self._stamp(data[bounds[cell] - base : bounds[cell + 1] - base], cell)
            for cell in range(first, first + count)
        ]

    def torn(self, data: bytes, first: int, count: int) -> list[str]:
        """Say what is in those cells that hold no stamp."""
        bounds, base, found = self.bounds, self.bounds[first], []
        for cell in range(first, first + count):
            part = data[bounds[cell] - base : bounds[cell + 1] - base]
            if self._stamp(part, cell) == TORN:
                heads = [_HEAD.unpack_from(part, at) for at in range(0, len(part) - _HEAD.size, _HEAD.size)]
                runs = [
                    f"{tell(stamp)} of disk {where >> 32} cell {where & 0xFFFFFFFF} from byte {at * 16}"
                    for at, (stamp, where) in enumerate(heads)
                    if not at or heads[at - 1] != (stamp, where)
                ]
                found.append(f"cell {cell} ({len(part)} bytes): " + ", ".join(runs[:6]))
        return found

    def _stamp(self, part: bytes, cell: int) -> int:
        stamp, where = _HEAD.unpack_from(part)
        if not stamp:
            return 0 if part == _ZEROS[: len(part)] else TORN
        if where != self.disk << 32 | cell or part != (part[: _HEAD.size] * _TIMES)[: len(part)]:
            return TORN
        return int(stamp)

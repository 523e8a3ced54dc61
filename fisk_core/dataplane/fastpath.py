# SPDX-License-Identifier: Apache-2.0
"""Reads of cached data and aligned writes within one map page: what most requests are, done in few steps."""

import os
from array import array

from fisk_core.blockmap import SEGMENT_PAGES
from fisk_core.blockmap.source import Segment
from fisk_core.dataplane.disk import WRITE_PIECE, Disk
from fisk_core.dataplane.layers import HOLE

PREALLOCATE_AT = 64
"""first writes to blocks of one page, between two flushes, from which the page gets its space at once"""
_SLOT_MASK = SEGMENT_PAGES - 1


class FastPath:
    """What can be done at once, with everything it needs in slots; made anew when the disk changes."""

    def __init__(self, disk: Disk) -> None:
        self.disk, self.map = disk, disk.map
        self.segments, self.fds, self.dirty = disk.map.segments, disk.fds, disk.map.dirty
        self.size, self.block_size = disk.size, disk.block_size
        self.end = disk.size if disk.period else 0  # of what may be written
        self.block_shift = disk.block_size.bit_length() - 1
        self.page_shift = disk.map.page_size.bit_length() - 1
        self.segment_shift = self.page_shift + SEGMENT_PAGES.bit_length() - 1
        self.block_mask, self.page_mask = disk.block_size - 1, disk.map.page_size - 1
        self.live = disk.map.live
        self.journal = disk.period.journal if disk.period else None
        self.live_fd = disk.fds[self.live] if disk.period else HOLE
        self.nowait = os.RWF_NOWAIT
        self.whole: array[int] = array("H", [self.live]) * disk.map.geometry.blocks_per_page

    def read(self, view: memoryview, offset: int, length: int) -> bool:
        """Fill ``view`` from the page cache; False when that takes more than one call.

        Raises BlockingIOError when nothing is cached; the kernel has begun to read it then.
        """
        segment = self.segments[offset >> self.segment_shift] if offset < self.size else None
        if segment is None or offset + length > self.size:
            return False
        page = segment[offset >> self.page_shift & _SLOT_MASK]
        if isinstance(page, int):
            if (offset & self.page_mask) + length > self.page_mask + 1:
                return False
            fd = self.fds[page]
        else:
            if (offset & self.block_mask) + length > self.block_size:
                return False
            fd = self.fds[page[(offset & self.page_mask) >> self.block_shift]]
        if fd < 0:
            return False
        return os.preadv(fd, (view,), offset, self.nowait) == length

    def write(self, view: memoryview, offset: int, length: int) -> bool:
        """Write whole blocks within one page; False when that is not what is asked."""
        segment = self.segments[offset >> self.segment_shift] if offset < self.end else None
        start = offset & self.page_mask
        if segment is None or (offset | length) & self.block_mask or start + length > self.page_mask + 1:
            return False
        disk = self.disk
        if offset + length > self.end or disk.discarding or disk.failed or not 0 < length <= WRITE_PIECE:
            return False
        number = offset >> self.page_shift
        slot = number & _SLOT_MASK
        page = segment[slot]
        live = self.live
        if page == live or (not isinstance(page, int) and length == self.block_size
                            and page[start >> self.block_shift] == live):  # fmt: skip
            disk.written = True
            return os.pwrite(self.live_fd, view, offset) == length
        return self._first_touch(view, offset, segment, number)

    def _first_touch(self, view: memoryview, offset: int, segment: Segment, number: int) -> bool:
        """Write blocks of which some belong to another layer: they become ours, nothing is copied."""
        disk, dirty, slot, journal = self.disk, self.dirty, number & _SLOT_MASK, self.journal
        if journal is not None and journal.end > journal.limit:
            return False
        first, count = (offset & self.page_mask) >> self.block_shift, len(view) >> self.block_shift
        touched = dirty.get(number, 0) + count
        if touched == count and len(dirty) >= disk.room:
            disk.record(count)
        if touched >= PREALLOCATE_AT > touched - count:
            disk.preallocate(number)
        disk.written = True
        if os.pwrite(self.live_fd, view, offset) != len(view):
            return False
        if journal is not None:
            journal.note(offset >> self.block_shift, count, True)
        page = segment[slot]
        if isinstance(page, int):
            page = segment[slot] = array("H", [page]) * len(self.whole)
        dirty[number] = touched
        if count == 1:
            page[first] = self.live
        elif count == len(self.whole):
            segment[slot] = self.live
        else:
            page[first : first + count] = self.whole[:count]
        return True


class CheckedPath(FastPath):
    """The same where layers have checksums: whole blocks are compared, everything else is left to others."""

    def read(self, view: memoryview, offset: int, length: int) -> bool:
        """Fill ``view`` as :class:`FastPath` does; raises Corrupt."""
        if (offset | length) & self.block_mask or not super().read(view, offset, length):
            return False
        page = self.map.page(offset >> self.page_shift)
        owner = page if isinstance(page, int) else page[(offset & self.page_mask) >> self.block_shift]
        checked = (self.disk.layers.checked or {}).get(self.fds[owner])
        if checked is not None:
            checked.check(view[:length], offset >> self.block_shift)
        return True

    def write(self, view: memoryview, offset: int, length: int) -> bool:
        """Leave it to the disk, which keeps the checksums."""
        return False


def fast_path(disk: Disk) -> FastPath:
    """Give the fast path that suits the disk."""
    return FastPath(disk) if disk.layers.checked is None else CheckedPath(disk)

# SPDX-License-Identifier: Apache-2.0
"""Map changes since the last flush, where they outlive the process that made them.

A client that reconnects after its server died believes that what was acknowledged is there, flushed or not:
data in the page cache is, but the map changes that speak of it were in the memory of the process.  So every
change is noted in a file mapped into memory before the write is answered (no system call), and the next
writer replays what was noted since the last flush.

Crash windows:

- killed between data and note: the write was not answered; the block reads as before;
- killed after the note: replayed;
- killed while, or after, a flush appends the same changes to the log: replaying all of them in order, over a
  log that has a beginning of them, ends in the same state;
- the host went down: the page cache is gone with what it held, so nothing may be replayed.  The identity of
  the boot is in the file;
- another writer came in between (another host): its epoch is higher than the one in the file, which is void;
- a flush failed: the kernel may have dropped the data, so the journal is emptied and stays so.

Format: a page of header (magic, map, boot, epoch, start, end), then a ring of two 64-bit words for each
change: the first block; the number of blocks times two, plus one where they now belong to the live layer
(else they are holes).  Native byte order: the file never leaves its host.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fisk_core.errors import from_oserror

CAPACITY = 1 << 20
"""changes there is room for; their data is gigabytes, which no page cache keeps unwritten for long"""
_SLACK = 4096
_STEP = 1 << 14
"""changes whose space is allocated at a time"""
_MAGIC = b"FISKJRN1"
_HEADER = struct.Struct("=8s36s36sQ")
_CHANGE = struct.Struct("=QQ")
_HEADER_BYTES = 4096
_START, _END = 128 // 8, 136 // 8  # words
_FIRST = _HEADER_BYTES // 8
_MASK = CAPACITY - 1
_SIZE = _HEADER_BYTES + 16 * CAPACITY


class Change(NamedTuple):
    """``blocks`` blocks from ``first`` belong to the live layer, or are holes."""

    first: int
    blocks: int
    live: bool


class Journal:
    """The journal of one period being written; made anew by each writer, when nothing is left to replay."""

    def __init__(self, path: Path, map_id: str, epoch: int) -> None:
        """Make the file, in place of one there may be; raises PoolError or NoSpace."""
        self.path, self.epoch = path, epoch
        self.start = self.end = 0
        self.limit = 0
        """``end`` from which on :meth:`make_room` is to be called before anything is noted"""
        self._allocated = 0
        fresh = path.with_suffix(".new")
        try:
            self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise from_oserror(exc, f"make the journal {path}") from exc
        try:
            os.ftruncate(self._fd, _SIZE)
            self._allocate()
            os.pwrite(self._fd, _HEADER.pack(_MAGIC, map_id.encode(), _boot().encode(), epoch), 0)
            self._memory = mmap.mmap(self._fd, _SIZE)
            fresh.rename(path)
        except OSError as exc:
            os.close(self._fd)
            fresh.unlink(missing_ok=True)
            raise from_oserror(exc, f"make the journal {path}") from exc
        self._words = memoryview(self._memory).cast("Q")

    def _allocate(self) -> None:
        """Get the space of more changes: a store into a mapped hole of a full disk is a signal, no error."""
        wanted = min(CAPACITY, self._allocated + _STEP)
        os.posix_fallocate(self._fd, 0, _HEADER_BYTES + 16 * wanted)
        self._allocated = wanted
        self._set_limit()

    def _set_limit(self) -> None:
        room = self.start + CAPACITY // 2
        self.limit = room if self._allocated == CAPACITY else min(room, self._allocated - _SLACK)

    @property
    def full(self) -> bool:
        """Nothing more is to be noted before a flush."""
        end = self.start + CAPACITY if self._allocated == CAPACITY else self._allocated
        return self.end > end - _SLACK // 2

    def make_room(self) -> bool:
        """Prepare for what is noted next; False when that takes a flush, soon or (:attr:`full`) first."""
        if self.end > self._allocated - _SLACK and self._allocated < CAPACITY:
            with suppress(OSError):  # a full disk: a flush empties the journal too
                self._allocate()
        return self.end <= self.limit

    def note(self, first: int, count: int, live: bool) -> None:
        """Remember that blocks changed owner; the caller saw that it was not :attr:`full`."""
        words, end = self._words, self.end
        at = _FIRST + 2 * (end & _MASK)
        words[at] = first
        words[at + 1] = 2 * count + live
        self.end = end + 1
        words[_END] = end + 1  # last: what is not counted was not noted

    def forget(self, mark: int) -> None:
        """Everything noted before ``mark``, a former :attr:`end`, is in the log by now."""
        if mark >= self.end:
            # From the beginning again: an idle Fisk's journal takes one page of memory, not the whole ring.
            # The end first: a journal that ends before it starts holds nothing.
            self._words[_END] = 0
            self._words[_START] = mark = self.end = 0
        else:
            self._words[_START] = mark
        self.start = mark
        self._set_limit()

    def close(self, *, remove: bool) -> None:
        """Let go of it; ``remove`` when nothing in it is needed any more."""
        if self._memory.closed:
            return
        self._words.release()
        self._memory.close()
        os.close(self._fd)
        if remove:
            self.path.unlink(missing_ok=True)


def read(path: Path, map_id: str, epoch: int) -> Iterator[Change]:
    """Give what the writer with ``epoch`` noted of a period and never flushed; nothing if it is void."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
            wanted = (_MAGIC, map_id.encode(), _boot().encode(), epoch)
            if len(head) != _HEADER_BYTES or _HEADER.unpack_from(head) != wanted:
                return
            words = memoryview(head).cast("Q")
            start, end = words[_START], words[_END]
            ring = file.read(16 * min(end, CAPACITY))
    except FileNotFoundError:
        return
    for number in range(start, end):
        first, count = _CHANGE.unpack_from(ring, 16 * (number & _MASK))
        yield Change(first, count >> 1, bool(count & 1))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

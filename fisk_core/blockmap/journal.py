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
- a flush failed: the kernel may have dropped the data, so the journal is emptied and stays so.  That is a
  store into memory, by the writer and by who replays, because removing a file may fail with the disk.

Format: a page of header (magic, map, boot, epoch and their CRC-32; start, end, each times 65537), then a
ring of two 64-bit words for each change: the first block; in its lower 48 bits the number of blocks times
two, plus one where they now belong to the live layer (else they are holes), above them a check of the change
and its number, modulo the prime 65521: no flipped bit leaves it the same.  Native byte order: the file never
leaves its host.  A damaged journal is worth nothing: as after a power loss, what was not flushed is lost.
"""

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from fisk_core import files
from fisk_core.errors import Corrupt, NoSpace, NotFound, from_oserror

LOG = logging.getLogger(__name__)

CAPACITY = 1 << 20
"""changes there is room for; their data is gigabytes, which no page cache keeps unwritten for long"""
_SLACK = 4096
_STEP = 1 << 14
"""changes whose space is allocated at a time"""
_MAGIC, _OLD_MAGIC = b"FISKJRN2", b"FISKJRN1"
_HEADER = struct.Struct("=8s36s36sQ")
_CRC = struct.Struct("=I")
_TWICE = 65537  # a number times this one is a multiple of it, and with any bit flipped is not
_PRIME, _SHIFT = 65521, 48
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
    """The journal of one period being written; made anew by each writer, when nothing is left to replay.

    No writer begins without its space.  Going on without a journal would acknowledge writes that are lost
    when the writer is killed, and clients that reconnect would not know.  But a full file system must not
    stop a disk that was in use: a writer that comes in another's place (killed, or replaced) takes over its
    file where there is no space for a new one.
    """

    def __init__(self, path: Path, map_id: str, epoch: int) -> None:
        """Make the file, in place of one there may be; raises PoolError or NoSpace."""
        self.path, self.epoch = path, epoch
        self.start = self.end = 0
        self.limit = 0
        """``end`` from which on :meth:`make_room` is to be called before anything is noted"""
        self._allocated = 0
        head = _HEADER.pack(_MAGIC, map_id.encode(), _boot().encode(), epoch)
        head += _CRC.pack(zlib.crc32(head))
        try:
            self._make(head)
        except OSError as exc:
            error = from_oserror(exc, f"make the journal {path}")
            if not isinstance(error, NoSpace):
                raise error from exc
            if not self._take_over(head):
                need = (_HEADER_BYTES + 16 * _STEP) >> 10
                raise NoSpace(
                    f"no space for the journal {path}: who writes a Fisk needs {need} KiB on that file system"
                ) from exc

    def _make(self, head: bytes) -> None:
        fresh = self.path.with_suffix(".new")
        self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(self._fd, _SIZE)
            self._allocate()
            self._write_head(head)
            self._map()
            try:
                fresh.rename(self.path)
            except OSError:
                self._unmap()  # which has a descriptor of its own
                raise
        except OSError:
            os.close(self._fd)
            with suppress(OSError):  # the next one is made in its place
                fresh.unlink(missing_ok=True)
            raise

    def _write_head(self, head: bytes) -> None:
        done = 0
        while done < len(head):
            done += os.pwrite(self._fd, head[done:], done)

    def _unmap(self) -> None:
        self._words.release()
        self._memory.close()

    def _map(self) -> None:
        self._memory = mmap.mmap(self._fd, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    def _take_over(self, head: bytes) -> bool:
        """Use the file of the writer before, if it has its space; False when it has not.

        It is emptied before it is ours: killed in between, it is an empty one of that writer.
        """
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            found = os.fstat(self._fd)
            fits = found.st_size == _SIZE and found.st_blocks * 512 >= _HEADER_BYTES + 16 * _STEP
            if fits:
                self._map()
        except OSError:
            fits = False
        if not fits:
            os.close(self._fd)
            return False
        self._allocated = _STEP
        self._words[_END] = 0
        self.forget(0)
        with suppress(OSError):
            self._write_head(head)
            return True
        self._unmap()
        os.close(self._fd)
        return False

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
        change = 2 * count + live
        words[at] = first
        words[at + 1] = change | (5 * end + 3 * first + change) % _PRIME << _SHIFT
        self.end = end = end + 1
        words[_END] = end * _TWICE  # last: what is not counted was not noted

    def forget(self, mark: int) -> None:
        """Everything noted before ``mark``, a former :attr:`end`, is in the log by now."""
        if mark >= self.end:
            # From the beginning again: an idle Fisk's journal takes one page of memory, not the whole ring.
            # The end first: a journal that ends before it starts holds nothing.
            self._words[_END] = 0
            self._words[_START] = mark = self.end = 0
        else:
            self._words[_START] = mark * _TWICE
        self.start = mark
        self._set_limit()

    def close(self, *, remove: bool) -> None:
        """Let go of it; ``remove`` when nothing in it is needed any more."""
        if self._memory.closed:
            return
        self._unmap()
        os.close(self._fd)
        if remove:
            files.remove(self.path)


def read(path: Path, map_id: str, epoch: int) -> Iterator[Change]:
    """Give what the writer with ``epoch`` noted of a period and never flushed; nothing if it is void.

    Raises Corrupt, before anything is given, for a damaged one.
    """
    try:
        with files.named("read", path), path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
            if not head:  # only its name was written when the host went down
                return
            if not _is_mine(head, map_id, epoch, path):
                return
            start, end = _bounds(head, path)
            ring = file.read(16 * min(end, CAPACITY))
    except NotFound:
        return
    if len(ring) < 16 * min(end, CAPACITY):
        raise Corrupt(f"journal {path} is cut short")
    check = not head.startswith(_OLD_MAGIC)
    yield from [_change(ring, number, path, check) for number in range(start, end)]


class Salvage:
    """The same for who is going to write: nothing, with an error logged, for a damaged one."""

    def __init__(self, path: Path, map_id: str, epoch: int) -> None:
        """Read it, and be ready to void it; raises PoolError."""
        self._path = path
        self._head: mmap.mmap | None = None
        self.changes: list[Change] = []
        try:
            self.changes += read(path, map_id, epoch)
        except Corrupt as exc:
            LOG.error("%s; what was written to %s and not flushed is lost", exc, map_id)
        if self.changes:
            self._map_head()

    def _map_head(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._head = mmap.mmap(fd, _HEADER_BYTES)
            finally:
                os.close(fd)
        except OSError as exc:
            raise from_oserror(exc, f"map the journal {self._path}") from exc
        # The page is writable from here on: its file system may be gone when it is to say that it is void.
        self._head[0] = self._head[0]

    def forget(self) -> None:
        """Have it say nothing any more: what it speaks of may be lost.

        A store into memory cannot be refused, and the kernel keeps it: only the next boot could find the file
        as it was, and knows that it is of another one.
        """
        assert self._head is not None
        with memoryview(self._head) as head, head.cast("Q") as words:
            words[_END] = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._head.close()


def _is_mine(head: bytes, map_id: str, epoch: int, path: Path) -> bool:
    if len(head) != _HEADER_BYTES:
        raise Corrupt(f"the header of journal {path} is cut short")
    magic, *found = _HEADER.unpack_from(head)
    crc = _CRC.pack(zlib.crc32(head[: _HEADER.size]))
    if magic != _OLD_MAGIC and (magic != _MAGIC or head[_HEADER.size :][: _CRC.size] != crc):
        raise Corrupt(f"the header of journal {path} does not match its checksum")
    if found[0] != map_id.encode():
        raise Corrupt(f"journal {path} says it is of the map {found[0].decode(errors='replace')}")
    return found[1:] == [_boot().encode(), epoch]


def _bounds(head: bytes, path: Path) -> tuple[int, int]:
    words = memoryview(head).cast("Q")
    start, end = words[_START], words[_END]
    if head.startswith(_MAGIC):
        if start % _TWICE or end % _TWICE:
            raise Corrupt(f"the bounds of journal {path} do not match their checksum")
        start, end = start // _TWICE, end // _TWICE
    if end - start > CAPACITY:
        raise Corrupt(f"journal {path} holds more than there is room for")
    return start, end


def _change(ring: bytes, number: int, path: Path, check: bool) -> Change:
    first, word = _CHANGE.unpack_from(ring, 16 * (number & _MASK))
    change = word & (1 << _SHIFT) - 1 if check else word
    if check and word >> _SHIFT != (5 * number + 3 * first + change) % _PRIME:
        raise Corrupt(f"change {number} of journal {path} does not match its checksum")
    return Change(first, change >> 1, bool(change & 1))


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    with files.named("read", path):
        return path.read_text().strip()

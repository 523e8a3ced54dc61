# SPDX-License-Identifier: Apache-2.0
"""Filling the disk of a Fisk under construction, without its zeros.

Data goes to the disk in ascending order, in pieces of whole blocks; each piece is written but for its blocks
of zeros.  Memory is bounded by a few pieces, whatever the size of the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from fisk_core.dataplane import protocol
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.disk import Disk
from fisk_core.errors import FiskError, ImageRefused, LimitExceeded
from fisk_core.model import MAX_SIZE
from fisk_core.services.sources import CHUNK, data_extents, is_regular, pieces, pread_into, read_up_to
from fisk_core.services.zeros import data_runs

if TYPE_CHECKING:
    from fisk_core.protocol import BuildingDisk, Progress

_SHARE = 256 << 20  # bytes shared at a time, so that progress is seen


@dataclass(slots=True)
class Meter:
    """Bytes done over all steps of one import, told to the caller."""

    callback: "Progress | None"
    total: int | None = None
    base: int = 0
    last: int = -1

    def at(self, done: int) -> None:
        """This step is ``done`` bytes along; small advances are told together."""
        now = self.base + done
        due = self.last < 0 or now >= self.last + CHUNK or (now == self.total and now > self.last)
        if self.callback is not None and due:
            self.last = now
            self.callback(now, self.total)

    def step(self, done: int) -> None:
        """A step of ``done`` bytes is over."""
        self.base += done

    def expect(self, more: int) -> None:
        """The steps still to come have ``more`` bytes."""
        self.total = self.base + more


class Filler:
    """Fills one disk, once, from one of three kinds of source."""

    def __init__(self, disk: "BuildingDisk", meter: Meter) -> None:
        self._disk = disk
        self._meter = meter
        self._block = disk.block_size
        self._chunk = max(CHUNK, self._block)
        # Over NBD there is nothing to share with; where checksums are kept somebody must look at the data.
        mine = disk if isinstance(disk, Disk) else None
        self.can_share = mine is not None and mine.layers.checked is None and mine.pool.capabilities.reflink
        """a file of the pool's own file system costs nothing to take"""
        self._sharing = False

    def _put(self, offset: int, data: memoryview) -> None:
        """Write what is not zeros; ``offset`` begins a block."""
        for start, length in data_runs(data, self._block):
            self._disk.write(offset + start, data[start : start + length])
        self._meter.at(offset + len(data))

    def from_stream(self, stream: IO[bytes], head: bytearray) -> int:
        """Take a stream of unknown length, of which ``head`` has been read; gives its length."""
        buffer = memoryview(bytearray(self._chunk))
        view = memoryview(head)
        offset = 0
        while True:
            first = view[: self._chunk]
            view = view[len(first) :]
            buffer[: len(first)] = first
            count = len(first) + read_up_to(stream, buffer[len(first) :])
            if offset + count > MAX_SIZE:
                raise LimitExceeded(f"the image is larger than a Fisk may be ({MAX_SIZE} bytes)")
            self._put(offset, buffer[:count])
            offset += count
            if count < self._chunk:
                return offset

    def from_nbd(self, client: NbdClient) -> None:
        """Take what an image served by QEMU holds; raises ImageRefused where it cannot be read."""
        chunk = min(self._chunk, client.info.maximum)
        if chunk % self._block:
            raise ImageRefused(
                f"blocks of {self._block} bytes are too large to import other formats than raw"
            )
        for offset, data in _readable(client.read_many(self._ranges(client, chunk))):
            self._put(offset, data)
        self._meter.at(client.size)

    def _ranges(self, client: NbdClient, chunk: int) -> Iterator[tuple[int, int]]:
        data = (
            (offset, length) for offset, length, flags in client.extents() if not flags & protocol.STATE_ZERO
        )
        return pieces(data, self._block, chunk, client.size)

    def from_file(self, fd: int, length: int) -> None:
        """Take the first ``length`` bytes of a file: shared where that is possible, else copied."""
        disk = self._disk if isinstance(self._disk, Disk) else None  # else it is reached over NBD
        self._sharing = self.can_share and is_regular(fd)
        buffer = memoryview(bytearray(self._chunk))
        for offset, count in pieces(data_extents(fd, length), self._block, _SHARE, length):
            shared = self._share(disk, fd, offset, count) if disk is not None else 0
            rest = iter([(offset + shared, count - shared)])
            for start, part in pieces(rest, self._block, self._chunk, length):
                pread_into(fd, buffer[:part], start)
                self._put(start, buffer[:part])
        self._meter.at(length)

    def _share(self, disk: Disk, fd: int, offset: int, count: int) -> int:
        """Share whole blocks of the file with the live layer; gives how many bytes, 0 where it cannot."""
        whole = count // self._block * self._block
        period = disk.writable()
        if not (self._sharing and whole):
            return 0
        if not disk.pool.clone_range(fd, period.layer, offset, offset, whole):
            self._sharing = False  # another file system: it will not be different for the next extent
            return 0
        disk.adopt(offset, whole)
        self._meter.at(offset + whole)
        return whole


def _readable(parts: Iterator[tuple[int, memoryview]]) -> Iterator[tuple[int, memoryview]]:
    try:
        yield from parts
    except FiskError as exc:
        raise ImageRefused(f"the image cannot be read: {exc}") from exc

# SPDX-License-Identifier: Apache-2.0
"""A Fisk as a block device: read, write, zero, trim and flush any range of bytes.

Order of durability, and the crash each step survives:

1. a write puts data into the live layer's page cache, then changes the map in memory, then notes that change
   in the journal (see ``blockmap.journal``), so that the next writer knows of it should this one be killed;
2. a flush takes a copy of the map changes, *then* makes the layer's data durable (and its checksums, where
   the pool keeps them: ``blockmap.sums``), *then* appends the changes to the log and makes that durable,
   *then* answers.

A power cut before 2 ends leaves the old log: every block reads as before or as one of the values written
since, never as something else, because a block gets into the log only after its data is on the medium.

A block that becomes live is written whole, so stale bytes a crash left in the layer never show.  Calls
with ``flags=RWF_NOWAIT`` raise BlockingIOError before they change anything, and can be made again.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from fisk_core import _linux, errors
from fisk_core.blockmap import BlockMap, Geometry, LogWriter, empty_map, load_live_map, load_map, replay
from fisk_core.blockmap.journal import Journal, Salvage
from fisk_core.blockmap.log import Changes, encode_changes
from fisk_core.dataplane.layers import HOLE, Layers
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.dataplane.verify import Checked, Written, open_written
from fisk_core.pools import open_pool
from fisk_core.pools.base import Device, Kind, Pool

WRITE_PIECE = 128 << 10
"""Bytes written by one call.

File systems put what one call writes into folios as large, and a later small write to a large folio is slow
(ext4 walks all its buffers: 4 KiB random writes run at 71 k/s after 1 MiB writes, 220 k/s after these).
"""
_MANY_CHANGES = 4096  # pages whose copies are worth giving back (8 MiB)
_FIRST_PAGES = 64
"""changed pages that the log of a new period has room for when it begins"""
_ZEROS = memoryview(bytes(1 << 20))


@dataclass(slots=True)
class Period:
    """One live period: the layer that is written and the log of its map."""

    map_id: str
    layer: Device
    log: LogWriter
    live: int
    geometry: Geometry
    journal: Journal | None = None
    sums: Written | None = None
    """the checksums of the layer, where it has some"""

    @classmethod
    def open(
        cls, pool: Pool, map_id: str, live: int, geometry: Geometry, size: int, *, untouched: bool = False
    ) -> "Period":
        log = LogWriter(pool, map_id, untouched=untouched)
        sums = None
        try:
            sums = open_written(pool, log, geometry, size)
            layer = pool.open_device(Kind.LAYER, map_id, writable=True)
        except BaseException:
            if sums is not None:
                sums.close()
            log.close()
            raise
        return cls(map_id, layer, log, live, geometry, sums=sums)

    def begin_journal(self, spec: DiskSpec) -> None:
        """Note changes from now on, where ``spec`` asks for it."""
        if spec.journal:
            self.journal = Journal(Path(spec.journal), self.map_id, spec.epoch)

    def end(self, *, durable: bool) -> None:
        """Close log and journal, which goes when everything in it is ``durable``."""
        try:
            self.log.close()
        finally:
            if self.journal:
                self.journal.close(remove=durable)

    def give_up(self) -> None:
        """Leave a period that was opened and never written; all of it is let go, whatever fails."""
        with contextlib.ExitStack() as rest:
            rest.callback(self.layer.close)
            if self.sums is not None:
                rest.callback(self.sums.close)
            if self.journal:
                rest.callback(self.journal.close, remove=True)
            self.log.abandon()

    def commit(self, changes: Changes, rested: Iterable[int] = ()) -> None:
        """Make all data written so far durable, then the map changes that speak of it; closes ``rested``."""
        self.layer.flush()
        if self.sums is not None:
            self.sums.flush()
        self.log.append(encode_changes(changes, self.live, self.geometry), rested)


@dataclass(frozen=True, slots=True)
class NextPeriod:
    """What a period is opened with that follows upon another; on any thread, for it touches no disk."""

    pool: Pool
    spec: DiskSpec
    live: int
    geometry: Geometry
    size: int

    def open(self) -> Period:
        """Open it with its journal, and have its log take a first flush; raises what that raises."""
        period = Period.open(self.pool, self.spec.map_id, self.live, self.geometry, self.size)
        try:
            period.begin_journal(self.spec)
            with contextlib.suppress(errors.NoSpace):  # each change asks again, and is refused then
                period.log.reserve(_FIRST_PAGES)
        except BaseException:
            period.give_up()
            raise
        return period


@dataclass(slots=True)
class Flush:
    """A flush under way: begun and ended on the disk's thread, run on any."""

    period: Period
    changes: Changes
    mark: int = 0
    """of the journal: what was noted before is in the changes"""
    rested: list[int] = field(default_factory=list)
    """pages whose checksums hold when the data is durable"""

    def run(self) -> None:
        self.period.commit(self.changes, self.rested)


class Disk:
    """One Fisk, opened.  Not for several threads at once, but for :meth:`Flush.run`.

    The opener of a writable disk holds the Fisk's lease; nobody else writes the period.
    """

    def __init__(self, pool: Pool, spec: DiskSpec, block_map: BlockMap) -> None:
        self.pool, self.spec, self.map = pool, spec, block_map
        self.block_size = block_map.block_size
        self.read_only = spec.read_only
        self.failed: str | None = None
        """why the disk turned read-only, once a flush failed or another host took over"""
        self.fenced = False
        self.written = False
        """something was written since the last flush began"""
        self.layers = Layers(pool, block_map.layers, block_map.geometry)
        self.fds = self.layers.fds
        self.period: Period | None = None
        self.room = 0
        """changed pages the log is known to have space for"""
        self._in_flight = 0
        self._preallocates = True
        self.discarding: list[tuple[int, int]] = []
        """(start, end) of ranges of the live layer being punched elsewhere: not to be written meanwhile"""

    @property
    def size(self) -> int:
        return self.map.size

    @classmethod
    def open(cls, pool: Pool | None, spec: DiskSpec, *, untouched: bool = False) -> "Disk":
        """Open the disk that ``spec`` describes; raises NotFound or Corrupt.

        ``untouched`` writes nothing before the first change: another process may still be the writer.
        """
        pool = pool or open_pool(spec.pool)
        if spec.journal and not spec.read_only and not untouched:
            replay_journal(pool, spec)
        disk = cls(pool, spec, _load(pool, spec))
        if not spec.read_only:
            try:
                geometry, live = disk.map.geometry, disk.map.live
                disk._add(Period.open(pool, spec.map_id, live, geometry, disk.size, untouched=untouched))
                if not untouched:
                    disk._prepare()
            except BaseException:
                disk.close()
                raise
        return disk

    def take_charge(self) -> None:
        """Begin to write what was opened untouched: the process before is done with it."""
        if self.period is not None:
            self._prepare()

    def _add(self, period: Period) -> None:
        try:
            self.layers.add(period.live, period.layer, period.sums)
        except BaseException:
            period.log.abandon()
            if period.journal:
                period.journal.close(remove=True)
            raise
        self.period = period

    def _prepare(self) -> None:
        assert self.period is not None
        if self.period.sums is not None:
            with contextlib.suppress(errors.NoSpace):  # these blocks are read without being compared then
                self.period.sums.heal(self.pool)
        self.period.begin_journal(self.spec)
        with contextlib.suppress(errors.NoSpace):  # each change asks again, and is refused then
            self.record(1)

    # Reading

    def plan(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Give (descriptor or HOLE, offset, bytes) for the range, every layer opened."""
        return [
            (self.layers.open(owner), start, count)
            for start, count, owner in self.map.extents(offset, length)
        ]

    def read_into(self, view: memoryview, offset: int, flags: int = 0) -> None:
        """Fill ``view`` from byte ``offset``."""
        fill(self.layers, view, self.plan(offset, len(view)), offset, flags)

    def read(self, offset: int, length: int) -> bytes:
        """Give ``length`` bytes from ``offset``; raises InvalidValue past the end."""
        self._check(offset, length)
        data = bytearray(length)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def status(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Give (offset, bytes, alias) of the owners of a range."""
        self._check(offset, length)
        return self.map.extents(offset, length)

    # Writing

    def write(self, offset: int, data: "bytes | bytearray | memoryview", flags: int = 0) -> None:
        """Write ``data`` at ``offset``; any alignment."""
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        period = self.writable()
        self._wait_for_discard(offset, len(view))
        size, end = self.block_size, offset + len(view)
        whole, whole_end = -(-offset // size) * size, end // size * size
        if whole > whole_end:
            edges = [self._edge(offset, view, flags)]
            whole = whole_end = end
        else:
            edges = [
                self._edge(start, view[start - offset : stop - offset], flags)
                for start, stop in ((offset, whole), (whole_end, end))
                if stop > start
            ]
        if whole_end > whole:
            edges.append((whole, view[whole - offset : whole_end - offset]))
        for start, part in edges:
            self._put(period, start, part)

    def _wait_for_discard(self, offset: int, length: int) -> None:
        """Raise BlockingIOError when a block of the range is being punched."""
        start, end = offset - self.block_size, offset + length + self.block_size
        if any(start < stop and begin < end for begin, stop in self.discarding):
            raise BlockingIOError

    def _edge(self, offset: int, part: memoryview, flags: int) -> tuple[int, memoryview]:
        """Give what to write for a part of one block: the part alone where the block is live already.

        A block with a checksum is always written whole, for the checksum needs all of it.
        """
        block, within = divmod(offset, self.block_size)
        assert self.period is not None
        if self.period.sums is None and next(iter(self.map.runs(block, 1)))[2] == self.period.live:
            return offset, part
        merged = memoryview(bytearray(self.block_size))
        self.read_into(merged, block * self.block_size, flags)
        merged[within : within + len(part)] = part
        return block * self.block_size, merged

    def _put(self, period: Period, offset: int, view: memoryview) -> None:
        first = offset // self.block_size
        count = -(-(offset + len(view)) // self.block_size) - first
        self.record(count)
        if period.sums is not None:
            self._unsettle(period, period.sums, first, count)
        self.written = True
        if period.sums is None:
            _write(period.layer, view, offset)
        else:
            with _summed(period.sums, period.layer, first, count):
                _write(period.layer, view, offset)
                period.sums.put(first, view)
        self._own(period, first, count, live=True)

    def _unsettle(self, period: Period, sums: Written, first: int, count: int) -> None:
        """Have blocks of the live layer changed: durably, no checksum holds for their pages any more."""
        pages = sums.to_open(first, count)
        if not pages:
            return
        period.log.reserve(self._in_flight + 2 * (len(self.map.dirty) + len(pages) + 4))
        try:
            sums.open(pages)
        except errors.FiskError as exc:
            self.failed = f"its log could not be written: {exc}"
            raise
        self.room = 0
        self.record(count)

    def _own(self, period: Period, first: int, count: int, *, live: bool) -> None:
        """Change the owner of blocks whose data is in place, and note it."""
        self.map.own(first, count, period.live if live else 0)
        if period.journal is not None:
            period.journal.note(first, count, live)

    def splice(self, source: int, offset: int, length: int) -> None:
        """Write whole blocks that are in the pipe ``source``; on an error part of them may be left there.

        Not where checksums are kept: nobody sees the data then.
        """
        period = self.writable()
        self._check(offset, length)
        self.record(length // self.block_size)
        self.written = True
        done, fd = 0, self.fds[period.live]
        try:
            while done < length:
                done += os.splice(source, fd, min(length - done, WRITE_PIECE), offset_dst=offset + done)
        except OSError as exc:
            raise errors.from_oserror(exc, f"write layer {period.map_id}") from exc
        self._own(period, offset // self.block_size, -(-length // self.block_size), live=True)

    def adopt(self, offset: int, length: int) -> None:
        """Count whole blocks as written: their data was put into the live layer by other means (reflink).

        Raises Unsupported where checksums are kept.
        """
        self._check(offset, length)
        period = self.writable()
        if period.sums is not None:
            raise errors.Unsupported(f"Fisk {self.spec.name} has checksums: data must be written through it")
        self.written = True
        self.record(length // self.block_size)
        self._own(period, offset // self.block_size, -(-length // self.block_size), live=True)

    def write_zeroes(self, offset: int, length: int, allocate: bool = False, flags: int = 0) -> None:
        """Make the range read as zeros; ``allocate`` also reserves its space."""
        self._check(offset, length)
        period = self.writable()
        first, count = self._inside(offset, length)
        if not count:
            return self._zero_edge(offset, offset + length, allocate, flags)
        start, stop = first * self.block_size, (first + count) * self.block_size
        self._zero_edge(offset, min(start, offset + length), allocate, flags)
        self._zero_edge(stop, offset + length, allocate, flags)
        if allocate:
            self._wait_for_discard(offset, length)
            self.record(count)
            if period.sums is not None:
                self._unsettle(period, period.sums, first, count)
            self.written = True
            if period.sums is None:
                period.layer.write_zeroes(start, stop - start)
            else:
                with _summed(period.sums, period.layer, first, count):
                    period.layer.write_zeroes(start, stop - start)
                    period.sums.put_zeros(first, count)
            self._own(period, first, count, live=True)
        else:
            self._drop(first, count)

    def _zero_edge(self, start: int, stop: int, allocate: bool, flags: int) -> None:
        """Zero a range that covers no whole block, so at most two parts of blocks."""
        while start < stop:
            block = start // self.block_size
            length = min(stop, (block + 1) * self.block_size) - start
            if allocate or next(iter(self.map.runs(block, 1)))[2]:
                self.write(start, _ZEROS[:length], flags)
            start += length

    def trim(self, offset: int, length: int) -> None:
        """Forget the whole blocks inside the range: they read as zeros, their space returns."""
        self._check(offset, length)
        self.writable()
        self._drop(*self._inside(offset, length))

    def _inside(self, offset: int, length: int) -> tuple[int, int]:
        """Give (first block, blocks) wholly inside a range; the disk's last block may be a short one."""
        end = offset + length
        last = -(-end // self.block_size) if end == self.size else end // self.block_size
        first = -(-offset // self.block_size)
        return first, max(0, last - first)

    def _drop(self, first: int, count: int) -> None:
        period = self.writable()
        live = [run for run in self.map.runs(first, count) if run[2] == period.live] if count else []
        self.record(0)  # whole pages that follow one another take one record, only the edges more
        if period.sums is not None and live:
            self._unsettle(period, period.sums, first, count)
        if count:
            self._own(period, first, count, live=False)
        self.written = True
        for start, blocks, _ in live:
            self.discard(period.layer, start * self.block_size, blocks * self.block_size)

    def discard(self, layer: Device, offset: int, length: int) -> None:
        """Give space of the live layer back; a worker does this elsewhere for large ranges."""
        layer.discard(offset, length)

    def record(self, blocks: int) -> None:
        """Make sure the map changes of ``blocks`` more blocks will fit into the log; raises NoSpace.

        Raises BlockingIOError when the journal has no room before the next flush, which is under way then.
        """
        journal = self.period.journal if self.period else None
        if journal is not None and journal.end > journal.limit and not journal.make_room():
            self.relieve()
            if journal.full:
                raise BlockingIOError
        need = len(self.map.dirty) + blocks * self.block_size // self.map.page_size + 2
        if need > self.room:
            assert self.period is not None
            self.period.log.reserve(self._in_flight + 2 * need)
            self.room = 2 * need

    def relieve(self) -> None:
        """Have everything flushed, so that the journal empties; a worker does this in the background."""
        self.flush()

    def preallocate(self, page: int) -> None:
        """Give a page that is being filled its space in one piece: first writes to it get cheaper then."""
        if not self._preallocates or self.period is None:
            return
        start = page * self.map.page_size
        try:
            length = min(self.map.page_size, self.size - start)
            self._preallocates = self.period.layer.preallocate(start, length)
        except errors.NoSpace:
            self._preallocates = False  # a nearly full pool still has space for what is really written

    def writable(self) -> Period:
        """Give the open period; raises ReadOnly when there is none or its medium failed."""
        if self.fenced:
            raise errors.Fenced(f"Fisk {self.spec.name} is not to be used here any more: {self.failed}")
        if self.failed:
            raise errors.ReadOnly(f"Fisk {self.spec.name} is read-only since {self.failed}")
        if self.period is None:
            raise errors.ReadOnly(f"Fisk {self.spec.name} is read-only")
        return self.period

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            message = f"bytes {offset} to {offset + length} are outside {self.spec.name} ({self.size} bytes)"
            raise errors.InvalidValue(message)

    # Durability

    def begin_flush(self, *, last: bool = False) -> Flush | None:
        """Give a flush of everything written until now, None when there is nothing to do."""
        period = self.writable()
        if not self.written and not self.map.dirty and not (period.sums and period.sums.restless):
            return None
        return self._take(period, last=last)

    def _take(self, period: Period, *, last: bool = False) -> Flush:
        changes = self.map.take_changes()
        self.written, self.room, self._in_flight = False, 0, self._in_flight + len(changes)
        rested = period.sums.rest(changes, last=last) if period.sums else []
        return Flush(period, changes, period.journal.end if period.journal else 0, rested)

    def end_flush(self, flush: Flush, error: Exception | None) -> None:
        """Take the outcome of a flush.

        A failed fsync is never tried again: the kernel may have dropped the dirty pages, and a second
        call would report success for data that is gone.
        """
        self._in_flight -= len(flush.changes)
        journal = flush.period.journal
        if error is not None:
            self.failed = f"a flush failed: {error}"
            if journal:
                journal.forget(journal.end)  # the data it speaks of may be gone
            return
        if journal:
            journal.forget(flush.mark)
        if len(flush.changes) > _MANY_CHANGES:
            flush.changes.clear()
            _linux.trim_memory()
        self.map.collapse([page for page, owners in flush.changes if isinstance(owners, bytes)][:64])

    def flush(self) -> None:
        """Make everything written so far durable; on failure the disk turns read-only and raises."""
        self._flush(last=False)

    def _flush(self, *, last: bool) -> None:
        flush = self.begin_flush(last=last)
        if flush is None:
            return
        try:
            flush.run()
        except errors.FiskError as exc:
            self.end_flush(flush, exc)
            raise
        self.end_flush(flush, None)

    def next_period(self, spec: DiskSpec) -> "NextPeriod":
        """Say what the period of ``spec`` is opened with, when it follows upon all that is written now."""
        spec = replace(spec, epoch=self.spec.epoch)
        return NextPeriod(self.pool, spec, len(self.map.layers), self.map.geometry, self.size)

    def begin_period(self, spec: DiskSpec) -> Flush:
        """Freeze what is live and write to the period of ``spec`` from now on.

        The flush it gives seals the old period: run it before any flush of the new one.
        """
        self.writable()
        following = self.next_period(spec)
        return self.enter_period(following, following.open())

    def enter_period(self, following: "NextPeriod", new: Period) -> Flush:
        """Do so with a period that was opened; raises InUse when it does not follow this one any more."""
        try:
            old = self.writable()
            if following != self.next_period(following.spec):
                raise errors.InUse(f"Fisk {self.spec.name} became another while its next period was opened")
        except BaseException:
            new.give_up()
            raise
        self._add(new)
        seal = self._take(old, last=True)
        self.map.begin_period(new.map_id)
        self.spec = following.spec
        with contextlib.suppress(errors.FiskError):  # each change asks again, and is refused then
            self.record(1)
        return seal

    def resize(self, size: int) -> None:
        """Take a larger size."""
        if size < self.size:
            raise errors.InvalidValue(f"{self.spec.name} cannot shrink while it is open")
        self.map.resize(size)

    def fence(self, why: str) -> None:
        """Refuse everything from now on; what threads have begun goes on."""
        self.failed, self.fenced = why, True

    def abandon(self) -> None:
        """Close and leave log and layers exactly as they are: they are, or will be, another process's."""
        period, self.period = self.period, None
        if period:
            period.log.abandon()
            if period.journal:
                period.journal.close(remove=False)
        self.layers.close()
        self.map.close()

    def close(self) -> None:
        """Flush and close; raises when the flush fails, and closes all the same."""
        durable = False
        try:
            if self.period and not self.failed:
                self._flush(last=True)
            durable = not self.failed
        finally:
            period, self.period = self.period, None
            try:
                if period:
                    period.end(durable=durable)
            finally:
                self.layers.close()
                self.map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(layer: Device, view: memoryview, offset: int) -> None:
    for at in range(0, len(view), WRITE_PIECE):
        layer.pwritev([view[at : at + WRITE_PIECE]], offset + at)


@contextlib.contextmanager
def _summed(sums: Written, layer: Device, first: int, count: int) -> Iterator[None]:
    """Write blocks; when that fails, their checksums become those of whatever they hold now.

    A write that failed leaves a block as it was, or as it was to be, or torn; that is no damage.
    """
    try:
        yield
    except errors.FiskError:
        with contextlib.suppress(errors.FiskError):  # then these blocks cannot be read until written again
            sums.take(layer, first, count)
        raise


def replay_journal(pool: Pool, spec: DiskSpec) -> int:
    """Bring into the log what a killed writer of the same epoch noted; gives how many blocks."""
    assert spec.journal is not None
    with Salvage(Path(spec.journal), spec.map_id, spec.epoch) as noted:
        return replay(pool, spec.map_id, spec.size, noted.changes, noted.forget) if noted.changes else 0


def _load(pool: Pool, spec: DiskSpec) -> BlockMap:
    if not spec.read_only:
        return load_live_map(pool, spec.map_id, spec.size)
    if spec.opened:
        return load_map(pool, spec.map_id, spec.size)
    if spec.base_id is None:
        return empty_map(Geometry(spec.block_size, spec.page_size), spec.size)
    return load_map(pool, spec.base_id, spec.size)


class CannotTell(BlockingIOError):
    """This file system (tmpfs for one) does not say whether a read would have to wait."""


def fill(
    layers: Layers, view: memoryview, plan: Iterable[tuple[int, int, int]], offset: int, flags: int = 0
) -> None:
    """Fill ``view``, which begins at byte ``offset``, from the extents of a plan; raises Corrupt."""
    checked = layers.checked
    for fd, start, length in plan:
        part = view[start - offset : start - offset + length]
        if checked and fd in checked:
            _read_checked(checked[fd], fd, part, start, flags)
        else:
            read_extent(fd, part, start, flags)


def _read_checked(checked: Checked, fd: int, view: memoryview, offset: int, flags: int) -> None:
    """Read whole blocks, compare them, and give what was asked for."""
    size = checked.block_size
    first, within = divmod(offset, size)
    blocks = -(-(within + len(view)) // size)
    whole = view if blocks * size == len(view) else memoryview(bytearray(blocks * size))
    read_extent(fd, whole, first * size, flags)
    checked.check(whole, first)
    if whole is not view:
        view[:] = whole[within : within + len(view)]


def read_extent(fd: int, view: memoryview, offset: int, flags: int = 0) -> None:
    """Read all of ``view`` from one layer; what lies behind the end of its file is zeros."""
    if fd == HOLE:
        return zero(view)
    done = 0
    while done < len(view):
        try:
            count = os.preadv(fd, (view[done:],), offset + done, flags)
        except BlockingIOError:
            raise
        except OSError as exc:
            if flags and exc.errno == errno.EOPNOTSUPP:
                raise CannotTell from exc
            raise errors.from_oserror(exc, "read a layer") from exc
        if not count:
            return zero(view[done:])
        done += count


def zero(view: memoryview) -> None:
    """Fill ``view`` with zeros."""
    for at in range(0, len(view), len(_ZEROS)):
        part = view[at : at + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]

# SPDX-License-Identifier: Apache-2.0
"""The log of one live period: which blocks its Fisk wrote or discarded since the base map.

The log is made of 512-byte sectors, each ``CRC-32, sequence, 504 bytes``; sector 0 holds the header, a
*batch* of records follows for every flush, padded to whole sectors.  A batch is written only after the
one before it is durable, and a record only after the data it speaks of is durable; so whatever a power
cut leaves of the last batch, everything before it is whole.

Opening tells a torn tail from damage: sectors of a batch that never reached the medium read as zeros
(the tail is allocated as zeros ahead of use), a sector that is neither zeros nor matches its checksum was
damaged and is reported, as is anything behind a torn batch.

Each record gives the full state of a page as far as this period changed it (owned by the live layer, or a
hole); the last record of a page counts, and replaying a record twice changes nothing.

The log of a layer with checksums also says which pages are *open*, their blocks being overwritten
(``blockmap.sums``): the last OPEN or CLOSED of a page counts.
"""

import threading
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from struct import Struct

from fisk_core._numpy import np
from fisk_core.blockmap import ends, sums
from fisk_core.blockmap.source import SEGMENT_PAGES, Geometry, Page, Segment, Source, to_page
from fisk_core.errors import Corrupt, FiskError, PoolError, Unsupported
from fisk_core.pools.base import Device, Kind, Pool

SECTOR = 512
FRAME = Struct("<II")
"""CRC-32 of the rest of the sector salted with its number, and the batch's sequence number."""
PAYLOAD = SECTOR - FRAME.size
HEADER = Struct("<8sHHIII16s16s16sQII")
"""magic, version, 0, incompatible / compatible / auto-clear features, map id, base map id or zeros,
Fisk id, bytes of the base that are seen, block size, page size."""
BATCH = Struct("<I")
"""bytes of records in the batch."""
RECORD = Struct("<B3xII")
"""kind, first page, number of pages; MASK kinds are followed by one bit per block, lowest block first."""

MAGIC = b"FISKLOG\0"
VERSION = 1
HOLE, LIVE, MASK_LIVE, MASK_BOTH, OPEN, CLOSED = range(6)
SUMS = 1 << 0
"""incompatible feature: the layer has checksums, and pages are opened before blocks of them are changed"""

RESERVE = 256 << 10
"""Bytes the tail is kept allocated ahead, so that a full pool cannot stop a flush."""
COMPACT_AT = 8 << 20
"""Bytes of log from which superseded records are worth dropping."""
_ZEROS = bytes(1 << 16)

_NO_BASE = bytes(16)


@dataclass(frozen=True, slots=True)
class LogHeader:
    """What a period says of itself: its map, the base map below it and how many bytes of that it sees."""

    map_id: str
    base_id: str | None
    fisk_id: str
    base_size: int
    geometry: Geometry
    sums: bool = False
    """the layer has checksums"""

    def pack(self) -> bytes:
        base = uuid.UUID(self.base_id).bytes if self.base_id else _NO_BASE
        ids = (uuid.UUID(self.map_id).bytes, base, uuid.UUID(self.fisk_id).bytes)
        geometry, features = self.geometry, SUMS if self.sums else 0
        return HEADER.pack(
            MAGIC, VERSION, 0, features, 0, 0, *ids, self.base_size, geometry.block_size, geometry.page_size
        )

    @classmethod
    def unpack(cls, payload: bytes, name: str) -> "LogHeader":
        fields = HEADER.unpack_from(payload)
        magic, version, _, incompatible, _, _, map_id, base, fisk, base_size, block_size, page_size = fields
        if magic != MAGIC:
            raise Corrupt(f"{name} is not a map log")
        if version != VERSION or incompatible & ~SUMS:
            raise Unsupported(f"{name} needs a newer Fisk (version {version}, features {incompatible:#x})")
        base_id = None if base == _NO_BASE else str(uuid.UUID(bytes=base))
        geometry = Geometry(block_size, page_size)
        ids = (str(uuid.UUID(bytes=map_id)), base_id, str(uuid.UUID(bytes=fisk)))
        return cls(*ids, base_size, geometry, bool(incompatible & SUMS))


def frame(payload: bytes, first_sector: int, sequence: int) -> bytes:
    """Cut a payload into sectors with their checksums."""
    sectors = []
    for number, at in enumerate(range(0, len(payload), PAYLOAD), first_sector):
        body = sequence.to_bytes(4, "little") + payload[at : at + PAYLOAD].ljust(PAYLOAD, b"\0")
        sectors.append(zlib.crc32(body, number).to_bytes(4, "little") + body)
    return b"".join(sectors)


def _open_sector(sector: bytes, number: int, name: str) -> int | None:
    """Give the sequence number of a good sector, None for one never written; raises Corrupt."""
    if not any(sector):
        return None
    crc, sequence = FRAME.unpack_from(sector)
    if crc != zlib.crc32(sector[4:], number):
        raise Corrupt(f"sector {number} of {name} does not match its checksum")
    return int(sequence)


@dataclass(slots=True)
class Contents:
    """A log as read: the header, the records of all whole batches, where the next batch goes."""

    header: LogHeader
    records: dict[int, tuple[int, bytes]]
    """page → (kind, masks); RUN records are spread over their pages"""
    sectors: int
    sequence: int
    torn: bool
    open_pages: set[int] = field(default_factory=set)
    """pages of which blocks may be newer, or older, than their checksums"""

    first: int = 0
    """the CRC-32 in the first sector of the first batch"""

    @property
    def end(self) -> ends.End:
        return ends.End(self.sequence, self.first)

    def owned(self, page: int) -> Iterator[tuple[int, int]]:
        """Give runs (first block, blocks) of a page that this period owns."""
        kind, masks = self.records.get(page, (HOLE, b""))
        first, blocks = page * self.header.geometry.blocks_per_page, self.header.geometry.blocks_per_page
        if kind == LIVE:
            yield first, blocks
        for number in range(blocks if kind > LIVE else 0):
            if masks[number >> 3] >> (number & 7) & 1:
                yield first + number, 1


def read_all(pool: Pool, map_id: str) -> Contents:
    """Read a log that is to end no earlier than it was known to; raises NotFound or Corrupt."""
    known = ends.read(pool, map_id)
    with pool.open_device(Kind.LOG, map_id, writable=False) as device:
        contents = read(device, map_id)
    known.require(contents.end, f"log {map_id}")
    return contents


def read(device: Device, map_id: str) -> Contents:
    """Read a whole log; raises Corrupt, naming it, when anything but its last batch is not whole."""
    name = f"log {map_id}"
    data = bytearray(device.size)
    device.preadv([data], 0)
    used = _used(data)
    view = memoryview(bytes(data[:used]).ljust(-(-used // SECTOR) * SECTOR, b"\0"))
    if len(view) < SECTOR or _open_sector(bytes(view[:SECTOR]), 0, name) is None:
        raise Corrupt(f"{name} has no header")
    header = LogHeader.unpack(bytes(view[FRAME.size : SECTOR]), name)
    if header.map_id != map_id:
        raise Corrupt(f"{name} says it is the log of {header.map_id}")
    contents = Contents(header, {}, 1, 0, False)
    if len(view) > SECTOR:
        contents.first = FRAME.unpack_from(view, SECTOR)[0]
    _read_batches(view, contents, name)
    return contents


def _used(data: bytearray) -> int:
    """Give the bytes before the tail: zeros allocated ahead, so many that they are compared in pieces."""
    end = len(data)
    while data.endswith(_ZEROS, 0, end):
        end -= len(_ZEROS)
    return len(data[:end].rstrip(b"\0"))


def _read_batches(view: memoryview, contents: Contents, name: str) -> None:
    total = len(view) // SECTOR
    while contents.sectors < total:
        start = contents.sectors
        sequence = _open_sector(bytes(view[start * SECTOR : (start + 1) * SECTOR]), start, name)
        if sequence is None:
            # The first sector of a torn batch may be the missing one: its other sectors can lie behind.
            contents.torn = _check_tail(view, start, contents.sequence + 1, name)
            return
        payload = _batch(view, start, contents.sequence + 1, name)
        if payload is None:
            contents.torn = True
            return
        _replay(payload, contents, name)
        contents.sectors += -(-(BATCH.size + len(payload)) // PAYLOAD)
        contents.sequence += 1


def _batch(view: memoryview, start: int, sequence: int, name: str) -> bytes | None:
    """Give the records of the batch at ``start``, None when its tail is torn."""
    length = BATCH.unpack_from(view, start * SECTOR + FRAME.size)[0]
    count = -(-(BATCH.size + length) // PAYLOAD)
    parts, whole = [], True
    for number in range(start, start + count):
        sector = bytes(view[number * SECTOR : (number + 1) * SECTOR])
        found = _open_sector(sector, number, name) if sector else None
        if found is not None and found != sequence:
            raise Corrupt(f"sector {number} of {name} belongs to batch {found}, not {sequence}")
        whole = whole and found is not None
        parts.append(sector[FRAME.size :])
    behind = _check_tail(view, start + count, sequence + 1, name) if not whole else False
    if behind:
        raise Corrupt(f"batch {sequence} of {name} is damaged")
    return b"".join(parts)[BATCH.size : BATCH.size + length] if whole else None


def _check_tail(view: memoryview, start: int, sequence: int, name: str) -> bool:
    """Say whether sectors of a torn batch lie at ``start`` or behind; raises Corrupt for any others."""
    found = False
    for number in range(start, len(view) // SECTOR):
        value = _open_sector(bytes(view[number * SECTOR : (number + 1) * SECTOR]), number, name)
        if value is not None and value != sequence:
            raise Corrupt(f"sector {number} of {name} lies behind the end of the log")
        found = found or value is not None
    return found


def _replay(payload: bytes, contents: Contents, name: str) -> None:
    width = contents.header.geometry.blocks_per_page + 7 >> 3
    position, records = 0, contents.records
    while position < len(payload):
        if position + RECORD.size > len(payload):
            raise Corrupt(f"{name} has a record that is cut short")
        kind, first, count = RECORD.unpack_from(payload, position)
        position += RECORD.size
        if contents.header.sums and kind in (OPEN, CLOSED):
            pages = range(first, first + count)
            (contents.open_pages.update if kind == OPEN else contents.open_pages.difference_update)(pages)
            continue
        masks = width * max(0, kind - LIVE)
        if kind > MASK_BOTH or position + masks > len(payload):
            raise Corrupt(f"{name} has a record of unknown kind {kind}, or one that is cut short")
        record = (kind, payload[position : position + masks])
        records.update(dict.fromkeys(range(first, first + count), record))
        position += masks


Changes = list[tuple[int, "int | bytes"]]
"""Pages to record, ascending: (page, owner) for a page with one owner, else (page, u16 owners as bytes)."""

_ENCODE_PAGES = 64  # mixed pages turned into masks at once: bounds the time the interpreter lock is held


def encode_changes(changes: Changes, live: int, geometry: Geometry) -> Iterator[bytes]:
    """Give the records of ``changes``; pages with neither live blocks nor holes need none."""
    mixed: list[tuple[int, bytes]] = []
    run = (HOLE, 0, 0)
    for page, owners in changes:
        if isinstance(owners, bytes):
            mixed.append((page, owners))
            continue
        if owners not in (0, live):
            continue
        kind = LIVE if owners else HOLE
        if (kind, page) == (run[0], run[1] + run[2]):
            run = (kind, run[1], run[2] + 1)
            continue
        if run[2]:
            yield RECORD.pack(*run)
        run = (kind, page, 1)
    if run[2]:
        yield RECORD.pack(*run)
    for at in range(0, len(mixed), _ENCODE_PAGES):
        yield from _encode_mixed(mixed[at : at + _ENCODE_PAGES], live, geometry)


def _encode_mixed(mixed: list[tuple[int, bytes]], live: int, geometry: Geometry) -> Iterator[bytes]:
    owners = np.frombuffer(b"".join(data for _, data in mixed), np.uint16)
    owners = owners.reshape(len(mixed), geometry.blocks_per_page)
    lives = np.packbits(owners == live, axis=1, bitorder="little")
    holes = np.packbits(owners == 0, axis=1, bitorder="little")
    for (page, _), live_mask, hole_mask in zip(mixed, lives, holes, strict=True):
        any_hole = hole_mask.any()
        yield RECORD.pack(MASK_BOTH if any_hole else MASK_LIVE, page, 1)
        yield live_mask.tobytes()
        if any_hole:
            yield hole_mask.tobytes()


def encode_pages(kind: int, pages: Iterable[int]) -> Iterator[bytes]:
    """Give the records that say that pages are OPEN or CLOSED."""
    first = count = 0
    for page in sorted(pages):
        if count and page == first + count:
            count += 1
            continue
        if count:
            yield RECORD.pack(kind, first, count)
        first, count = page, 1
    if count:
        yield RECORD.pack(kind, first, count)


def create(pool: Pool, header: LogHeader) -> None:
    """Create the files of a period, the log with its header and the empty layer, durably.

    A crash before this returns leaves files no transaction names yet; the next attempt replaces them.
    """
    pool.delete_device(Kind.LAYER, header.map_id)
    pool.create_device(Kind.LAYER, header.map_id, header.base_size).close()
    if sums.wanted(pool):
        header = replace(header, sums=True)
        sums.create(pool, header.map_id, header.geometry.block_size)
    pool.replace_log(header.map_id, [frame(header.pack(), 0, 0)])
    pool.sync_device_name(Kind.LAYER, header.map_id)
    if header.sums:
        pool.sync_device_name(Kind.SUMS, header.map_id)


def rewrite(pool: Pool, header: LogHeader, changes: Changes, live: int) -> None:
    """Replace the log of a period by one that says just ``changes``, durably and in one rename.

    For a period no LogWriter has open.
    """
    payload = b"".join(encode_changes(changes, live, header.geometry))
    body = frame(BATCH.pack(len(payload)) + payload, 1, 1) if payload else b""
    ends.forget(pool, header.map_id)
    pool.sync_names()  # durably: it may begin like the one before, and end earlier
    pool.replace_log(header.map_id, [frame(header.pack(), 0, 0), body])


class LogWriter:
    """Appends batches to the log of an open period.

    One thread appends while another may :meth:`reserve` and :meth:`open_pages`.  After any failure the log
    must not be written again: what reached the medium is unknown.
    """

    def __init__(self, pool: Pool, map_id: str, *, untouched: bool = False) -> None:
        """Open the log; ``untouched`` leaves it as it is, and refuses one that a crash tore (Corrupt)."""
        self._pool, self._map_id = pool, map_id
        known = ends.read(pool, map_id)
        self._device = pool.open_device(Kind.LOG, map_id, writable=True)
        try:
            contents = read(self._device, map_id)
            known.require(contents.end, f"log {map_id}")
            self._first, self._known = contents.first, known
            self.header = contents.header
            self._sequence, self._end = contents.sequence, contents.sectors * SECTOR
            if contents.torn and untouched:
                raise Corrupt(
                    f"log {map_id} has a torn tail, where another process was to have made it whole"
                )
            if contents.torn:
                self._drop_tail()
        except BaseException:
            self._device.close()
            raise
        self._compact_at = max(COMPACT_AT, 2 * self._end)
        self._width = self.header.geometry.blocks_per_page + 7 >> 3
        self._reserved = self._end
        self._lock = threading.Lock()  # reserve() against the moment a compacted log replaces the old one
        self._appending = threading.Lock()
        self._unsynced = False
        """a batch was written and not made durable"""
        self.unclosed = contents.open_pages
        """pages that are open, as far as the log says"""
        self._reopened: set[int] = set()
        self.unsure = [run for page in sorted(contents.open_pages) for run in contents.owned(page)]
        """(first block, blocks) of what the period owned in open pages when it was opened"""
        self.known = set(contents.records) if self.header.sums else set()
        """pages that the period had changed when it was opened, where that has to be known"""

    def _drop_tail(self) -> None:
        """Cut what a crash left of an unfinished batch, durably: the next batch must not mix with it."""
        self._device.truncate(self._end)
        self._device.flush()

    def reserve(self, pages: int) -> None:
        """Make sure that records for ``pages`` changed pages, all not yet appended, will fit.

        Called before writes are accepted, so that they fail (NoSpace) and not the flush that follows them.
        """
        with self._lock:
            need = self._end + pages * (RECORD.size + 2 * self._width) * SECTOR // PAYLOAD + 2 * SECTOR
            if need > self._reserved:
                length = need + RESERVE - self._reserved
                self._device.write_zeroes(self._reserved, length)
                self._reserved += length

    def _claim(self, length: int) -> int:
        """Take the place of the next batch; nothing is reserved, so zeroed, there from now on."""
        with self._lock:
            start, self._end = self._end, self._end + length
            self._reserved = max(self._reserved, self._end)
            return start

    def append(self, records: Iterable[bytes], rested: Iterable[int] = ()) -> None:
        """Write one batch and make it durable; of ``rested``, pages not opened again meanwhile are closed."""
        with self._appending:
            closed = [page for page in rested if page not in self._reopened]
            self._reopened.clear()
            self._append(b"".join((*records, *encode_pages(CLOSED, closed))))
            self.unclosed.difference_update(closed)

    def open_pages(self, pages: Iterable[int]) -> None:
        """Say durably that blocks of these pages will be overwritten; :meth:`reserve` came before."""
        with self._appending:
            fresh = set(pages) - self.unclosed
            # What is open already is opened again only while a flush is about to close it.
            self._reopened.update(pages)
            self._reopened -= fresh
            self._append(b"".join(encode_pages(OPEN, fresh)))
            self.unclosed |= fresh

    def _append(self, payload: bytes) -> None:
        if not payload:
            return
        if self._unsynced:
            raise PoolError(f"log {self._map_id} could not be made durable before, and is not written again")
        framed = frame(BATCH.pack(len(payload)) + payload, self._end // SECTOR, self._sequence + 1)
        if not self._sequence:
            self._first = FRAME.unpack_from(framed)[0]
        start = self._claim(len(framed))
        try:
            self._device.pwritev([framed], start)
            self._unsynced = True
            self._device.flush()
            self._unsynced = False
        except FiskError:
            # Nobody knows whether it is on the medium, and nobody may be told so by the page cache: the next
            # writer would put its batch behind one that a power loss takes away.
            with suppress(FiskError):
                self._device.truncate(start)
            with self._lock:
                self._end = self._reserved = start
            raise
        self._sequence += 1
        if self._end > self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Replace the log by one with only the last record of each page, in one rename.

        A crash on either side of the rename leaves one of two logs that say the same.
        """
        contents = read(self._device, self._map_id)
        records = (*chain.from_iterable(_repack(contents.records)), *encode_pages(OPEN, contents.open_pages))
        payload = b"".join(records)
        head = frame(self.header.pack(), 0, 0)
        body = frame(BATCH.pack(len(payload)) + payload, 1, 1)
        ends.forget(self._pool, self._map_id)
        with self._lock:
            self._pool.replace_log(self._map_id, [head, body])
            self._device.close()
            self._device = self._pool.open_device(Kind.LOG, self._map_id, writable=True)
            self._sequence, self._end = 1, len(head) + len(body)
            self._first = FRAME.unpack_from(body)[0]
            length = max(RESERVE, self._reserved - self._end)
            self._device.write_zeroes(self._end, length)
            self._reserved, self._compact_at = self._end + length, max(COMPACT_AT, 2 * self._end)

    def abandon(self) -> None:
        """Close the log and leave it as it is: another process writes it."""
        self._device.close()

    def close(self) -> None:
        """Close the log, giving back the space reserved ahead, and note where it ends."""
        try:
            self._device.truncate(self._end)
        finally:
            self._device.close()
        end = ends.End(self._sequence, self._first)
        if self._sequence and end != self._known:
            ends.write(self._pool, self._map_id, end)
            self._known = end


def _repack(records: dict[int, tuple[int, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    run: tuple[int, int, int] = (HOLE, 0, 0)
    for page in sorted(records):
        kind, masks = records[page]
        if kind <= LIVE and (kind, page) == (run[0], run[1] + run[2]):
            run = (kind, run[1], run[2] + 1)
            continue
        if run[2]:
            yield RECORD.pack(*run), b""
        run = (kind, page, 1) if kind <= LIVE else (HOLE, 0, 0)
        if kind > LIVE:
            yield RECORD.pack(kind, page, 1), masks
    if run[2]:
        yield RECORD.pack(*run), b""


class Logged:
    """A base with a log on top, as a source of pages."""

    def __init__(self, base: Source, header: LogHeader, records: dict[int, tuple[int, bytes]]) -> None:
        self.base, self.geometry, self.header = base, base.geometry, header
        self.layers: list[str | None] = [*base.layers, header.map_id]
        self.live = len(base.layers)
        self._records: dict[int, list[int]] = {}
        self._changes = records
        for page in records:
            self._records.setdefault(page // SEGMENT_PAGES, []).append(page)

    def is_hole(self, index: int) -> bool:
        return index not in self._records and self.base.is_hole(index)

    def segment(self, index: int) -> Segment:
        pages = self.base.segment(index)
        for page in self._records.get(index, ()):
            slot = page - index * SEGMENT_PAGES
            pages[slot] = self._apply(pages[slot], *self._changes[page])
        return pages

    def _apply(self, page: Page, kind: int, masks: bytes) -> Page:
        if kind <= LIVE:
            return self.live if kind == LIVE else 0
        per_page = self.geometry.blocks_per_page
        owners = np.empty(per_page, np.uint16)
        owners[:] = page
        rows = np.frombuffer(masks, np.uint8).reshape(kind - LIVE, -1)
        bits = np.unpackbits(rows, axis=1, bitorder="little")
        owners[bits[0, :per_page].view(bool)] = self.live
        if kind == MASK_BOTH:
            owners[bits[1, :per_page].view(bool)] = 0
        return to_page(owners)

    def close(self) -> None:
        self.base.close()

# SPDX-License-Identifier: Apache-2.0
"""A frozen map as one blob: written once, compressed, every byte under a checksum.

Layout, little-endian::

    header      HEADER (below), then its CRC-covered tables:
    layers      16 bytes each: the UUID of alias 1, 2, …
    directory   ENTRY for each segment; length 0 = all holes
    crc         u32, CRC-32 of everything above
    segments    zstd frames, each under the CRC-32 its directory entry holds

A segment unpacks to 1024 u16 owners, 0xFFFF for a mixed page, then blocks-per-page u16 for each mixed
page in order.  Readers load segments when first needed and refuse unknown incompatible features.
"""

import uuid
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import zstandard

from fisk_core.blockmap.source import MAX_ALIAS, SEGMENT_PAGES, Geometry, Segment
from fisk_core.errors import Corrupt, LimitExceeded, Unsupported
from fisk_core.pools.base import BlobReader, Pool

MAGIC = b"FISKMAP\0"
VERSION = 1
HEADER = Struct("<8sHHIII16sQIIIQ")
"""magic, version, 0, incompatible / compatible / auto-clear features, map id, size in bytes,
block size, page size, number of layers, bytes of the whole blob."""
ENTRY = Struct("<QII")
"""offset in the blob, bytes, CRC-32."""
CRC = Struct("<I")

_MIXED = 0xFFFF
_HEADS = Struct(f"<{SEGMENT_PAGES}H")


@dataclass(frozen=True, slots=True)
class BlobHeader:
    """What a frozen map says of itself; ``layers[0]`` is None, ``layers[alias]`` a layer id."""

    map_id: str
    size: int
    geometry: Geometry
    layers: list[str | None]
    directory: list[tuple[int, int, int]]
    length: int


def name_of(map_id: str) -> str:
    return f"maps/{map_id}"


def pack_segment(pages: Segment) -> bytes:
    """Give the uncompressed form of a segment."""
    heads = [page if isinstance(page, int) else _MIXED for page in pages]
    mixed = [page.tobytes() for page in pages if not isinstance(page, int)]
    return _HEADS.pack(*heads) + b"".join(mixed)


def unpack_segment(data: bytes, blocks_per_page: int) -> Segment:
    """Give the pages of an uncompressed segment; raises ValueError when lengths do not agree."""
    if len(data) < _HEADS.size:
        raise ValueError("segment is shorter than its table of pages")
    heads = _HEADS.unpack_from(data)
    width = 2 * blocks_per_page
    if len(data) != _HEADS.size + width * heads.count(_MIXED):
        raise ValueError("segment length does not match its pages")
    pages: Segment = list(heads)
    position = _HEADS.size
    for index, head in enumerate(heads):
        if head == _MIXED:
            page = array("H")
            page.frombytes(data[position : position + width])
            pages[index] = page
            position += width
    return pages


def encode(
    map_id: str, size: int, geometry: Geometry, layers: list[str | None], segments: Iterator[Segment]
) -> Iterator[bytes]:
    """Give the blob of a map in chunks; ``segments`` yields every segment in order."""
    if len(layers) - 1 > MAX_ALIAS:
        raise LimitExceeded(f"map {map_id} names {len(layers) - 1} layers; at most {MAX_ALIAS} are possible")
    compressor = zstandard.ZstdCompressor(level=3)
    frames = [b"" if not any(pages) else compressor.compress(pack_segment(pages)) for pages in segments]
    table = b"".join(uuid.UUID(layer).bytes for layer in layers[1:] if layer)
    start = HEADER.size + len(table) + ENTRY.size * len(frames) + CRC.size
    directory, offset = [], start
    for frame in frames:
        directory.append(ENTRY.pack(offset if frame else 0, len(frame), zlib.crc32(frame)))
        offset += len(frame)
    identity, count = uuid.UUID(map_id).bytes, len(layers) - 1
    sizes = (size, geometry.block_size, geometry.page_size, count, offset)
    header = HEADER.pack(MAGIC, VERSION, 0, 0, 0, 0, identity, *sizes)
    head = b"".join((header, table, *directory))
    yield head + CRC.pack(zlib.crc32(head))
    yield from filter(None, frames)


def parse_header(reader: BlobReader, name: str) -> BlobHeader:
    """Read and verify everything before the segments; raises Corrupt or Unsupported."""
    fixed = reader.pread(HEADER.size, 0)
    if len(fixed) < HEADER.size or not fixed.startswith(MAGIC):
        raise Corrupt(f"{name} is not a map")
    fields = HEADER.unpack(fixed)
    _, version, _, incompatible, _, _, identity, size, block_size, page_size, count, length = fields
    tables = 16 * count + ENTRY.size * _segment_count(size, page_size, reader.size)
    head = fixed + reader.pread(tables + CRC.size, HEADER.size)
    if len(head) < HEADER.size + tables + CRC.size or CRC.unpack(head[-4:])[0] != zlib.crc32(head[:-4]):
        raise Corrupt(f"the header of {name} does not match its checksum")
    if version != VERSION or incompatible:
        raise Unsupported(f"{name} needs a newer Fisk (version {version}, features {incompatible:#x})")
    if length != reader.size:
        raise Corrupt(f"{name} has {reader.size} bytes instead of {length}")
    table_end = HEADER.size + 16 * count
    names = [str(uuid.UUID(bytes=head[at : at + 16])) for at in range(HEADER.size, table_end, 16)]
    directory = list(ENTRY.iter_unpack(head[table_end : -CRC.size]))
    geometry = Geometry(block_size, page_size)
    return BlobHeader(str(uuid.UUID(bytes=identity)), size, geometry, [None, *names], directory, length)


def _segment_count(size: int, page_size: int, blob_size: int) -> int:
    """Segments that the (not yet verified) header claims, never more than the blob could describe."""
    claimed = Geometry(1, page_size or 1).segments(size)
    return min(claimed, blob_size // ENTRY.size)


class Blob:
    """A frozen map opened for reading; stays readable when the blob is deleted meanwhile."""

    def __init__(self, pool: Pool, map_id: str) -> None:
        self.name = name_of(map_id)
        self._reader = pool.open_blob(self.name)
        try:
            self.header = parse_header(self._reader, self.name)
            if self.header.map_id != map_id:
                raise Corrupt(f"{self.name} says it is the map {self.header.map_id}")
        except BaseException:
            self._reader.close()
            raise
        self.geometry, self.layers, self.size = self.header.geometry, self.header.layers, self.header.size
        self._decompressor = zstandard.ZstdDecompressor()

    def is_hole(self, index: int) -> bool:
        return index >= len(self.header.directory) or not self.header.directory[index][1]

    def segment(self, index: int) -> Segment:
        if index >= len(self.header.directory):
            return [0] * SEGMENT_PAGES
        offset, length, crc = self.header.directory[index]
        if not length:
            return [0] * SEGMENT_PAGES
        frame = self._reader.pread(length, offset)
        if len(frame) != length or zlib.crc32(frame) != crc:
            raise Corrupt(f"segment {index} of {self.name} does not match its checksum")
        return self._unpack(frame, index)

    def _unpack(self, frame: bytes, index: int) -> Segment:
        per_page = self.geometry.blocks_per_page
        limit = _HEADS.size + 2 * per_page * SEGMENT_PAGES
        try:
            return unpack_segment(self._decompressor.decompress(frame, max_output_size=limit), per_page)
        except (ValueError, zstandard.ZstdError) as exc:
            raise Corrupt(f"segment {index} of {self.name}: {exc}") from exc

    def verify(self) -> None:
        """Read every segment; raises Corrupt at the first that is damaged or names an unknown layer."""
        for index in range(len(self.header.directory)):
            for page in self.segment(index):
                if (page if isinstance(page, int) else max(page)) >= len(self.layers):
                    raise Corrupt(f"segment {index} of {self.name} names a layer the map does not list")

    def close(self) -> None:
        self._reader.close()

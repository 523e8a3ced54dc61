# SPDX-License-Identifier: Apache-2.0
"""Maps as a pool stores them: opening the chain of a map, sealing and consolidating a period.

A map is a blob, or the log of a period over its base map.  Reading follows bases until the first blob;
nothing here needs the catalog.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fisk_core._numpy import np
from fisk_core.blockmap import blob, journal, listed, log, sums
from fisk_core.blockmap.pagemap import BlockMap, flatten
from fisk_core.blockmap.source import SEGMENT_PAGES, Empty, Geometry, Segment, Source, Truncated, to_page
from fisk_core.errors import FiskError, NotFound
from fisk_core.pools.base import Kind, Pool

if TYPE_CHECKING:
    import numpy.typing as npt


def open_source(pool: Pool, map_id: str) -> Source:
    """Open the stored form of a map; raises NotFound or Corrupt.

    A map may be consolidated while its chain is being followed: then its log goes, and the maps below that
    only it needed.  Whoever misses something begins again when a map on the way has a blob by now.
    """
    while True:
        logs: list[log.Contents] = []
        try:
            return _follow(pool, map_id, logs)
        except NotFound:
            passed = [contents.header.map_id for contents in logs]
            last = logs[-1].header.base_id if logs else map_id
            if not any(pool.has_blob(blob.name_of(each)) for each in [*passed, last] if each):
                raise


def _follow(pool: Pool, map_id: str, logs: list[log.Contents]) -> Source:
    """Open a chain of maps down to the first blob; ``logs`` gets those that were read on the way."""
    source: Source | None = None
    following: str | None = map_id
    while following and source is None:
        if pool.has_blob(blob.name_of(following)):
            source = blob.Blob(pool, following)
        else:
            logs.append(log.read_all(pool, following))
            following = logs[-1].header.base_id
    if source is None:
        source = Empty(logs[-1].header.geometry)
    for contents in reversed(logs):
        source = log.Logged(Truncated(source, contents.header.base_size), contents.header, contents.records)
    return source


def load_map(pool: Pool, map_id: str, size: int) -> BlockMap:
    """Give the map for reading, as a Fisk of ``size`` bytes sees it; raises NotFound or Corrupt."""
    return BlockMap(Truncated(open_source(pool, map_id), size), size)


def load_live_map(pool: Pool, map_id: str, size: int) -> BlockMap:
    """Give the map of an open period for writing: its own layer gets what is written."""
    source = open_source(pool, map_id)
    return BlockMap(source, size, live=len(source.layers) - 1)


def empty_map(geometry: Geometry, size: int) -> BlockMap:
    """Give the map of a Fisk nothing was ever written to."""
    return BlockMap(Empty(geometry), size)


def seal(pool: Pool, map_id: str) -> None:
    """Make what was written in a period durable, data before log, when nobody writes it any more."""
    summed = sums.wanted(pool) and pool.exists(Kind.SUMS, map_id)
    for kind in (Kind.LAYER, Kind.SUMS, Kind.LOG) if summed else (Kind.LAYER, Kind.LOG):
        with pool.open_device(kind, map_id, writable=True) as device:
            device.flush()
    if not (summed and _has_open_pages(pool, map_id)):
        return
    writer = log.LogWriter(pool, map_id)
    try:
        heal(pool, writer)
    finally:
        writer.close()


def _has_open_pages(pool: Pool, map_id: str) -> bool:
    return bool(log.read_all(pool, map_id).open_pages)


def heal(pool: Pool, writer: log.LogWriter) -> None:
    """Take the checksums of blocks that a crash left newer or older than theirs; nobody changes the layer.

    The sums first: until the log closes the pages, nobody compares these blocks.
    """
    sums.take(pool, writer.header.map_id, writer.unsure)
    writer.append((), writer.unclosed.copy())


def replay(
    pool: Pool, map_id: str, size: int, changes: Iterable[journal.Change], forget: Callable[[], None]
) -> int:
    """Put changes nobody flushed into a period's log, data first, all durable; gives how many blocks.

    The caller knows that nobody writes the period.  May be done again, unless the data could not be made
    durable: the kernel may have dropped it then, and would say next time that all is well.  So ``forget`` is
    called, which must not fail: the journal is void then, as after any flush that failed.
    """
    block_map = load_live_map(pool, map_id, size)
    try:
        end = -(-size // block_map.block_size)
        blocks, live_runs = 0, []
        for first, count, live in changes:
            count = min(count, end - first)
            block_map.own(first, count, block_map.live if live else 0)
            live_runs += [(first, count)] * live
            blocks += count
        with pool.open_device(Kind.LAYER, map_id, writable=True) as layer:
            try:
                layer.flush()
            except FiskError:
                forget()
                raise
        if sums.wanted(pool) and pool.exists(Kind.SUMS, map_id):
            sums.take(pool, map_id, live_runs)  # the writer may have died between data and sum
        writer = log.LogWriter(pool, map_id)
        try:
            writer.append(log.encode_changes(block_map.take_changes(), block_map.live, block_map.geometry))
        finally:
            writer.close()
        return blocks
    finally:
        block_map.close()


def consolidate(pool: Pool, map_id: str, size: int) -> set[str]:
    """Write the blob of a sealed map, durably; gives the ids of the layers that it names.

    The log stays; the caller deletes it once its catalog says that there is a blob.  A crash before
    leaves both, which say the same.
    """
    block_map = load_map(pool, map_id, size)
    try:
        used = used_aliases(block_map)
        layers = [None, *(block_map.layers[alias] for alias in used)]
        table = np.zeros(len(block_map.layers), np.uint16)
        table[used] = np.arange(1, len(used) + 1)
        chunks = blob.encode(map_id, size, block_map.geometry, layers, _renumbered(block_map, table))
        pool.put_blob(blob.name_of(map_id), chunks, durable=True)
    finally:
        block_map.close()
    return {layer for layer in layers if layer}


def used_aliases(block_map: BlockMap) -> list[int]:
    """Give the aliases that own at least one block, ascending (oldest layer first)."""
    return sorted(owned_blocks(block_map))


def owned_blocks(block_map: BlockMap) -> dict[int, int]:
    """Give alias → blocks it owns; holes are left out."""
    total = np.zeros(len(block_map.layers), np.int64)
    per_page = block_map.geometry.blocks_per_page
    for _, segment in stored_segments(block_map):
        for page in segment:
            if isinstance(page, int):
                total[page] += per_page
            else:
                counts = np.bincount(np.frombuffer(page, np.uint16), minlength=len(total))
                total += counts
    return {int(alias): int(total[alias]) for alias in np.flatnonzero(total) if alias}


def stored_segments(block_map: BlockMap) -> Iterator[tuple[int, Segment]]:
    """Give (index, segment) for every segment that may hold data, without keeping them in memory."""
    for index, segment in enumerate(block_map.segments):
        if segment is not None:
            yield index, segment
        elif not block_map.source.is_hole(index):
            yield index, block_map.source.segment(index)


def _renumbered(block_map: BlockMap, table: "npt.NDArray[Any]") -> Iterator[Segment]:
    for index in range(len(block_map.segments)):
        if block_map.segments[index] is None and block_map.source.is_hole(index):
            yield [0] * SEGMENT_PAGES
            continue
        segment = block_map.segments[index] or block_map.source.segment(index)
        yield [
            int(table[page]) if isinstance(page, int) else to_page(table[np.frombuffer(page, np.uint16)])
            for page in segment
        ]


def verify_blob(pool: Pool, map_id: str) -> blob.BlobHeader:
    """Read all of a frozen map against its checksums; raises Corrupt or NotFound."""
    opened = blob.Blob(pool, map_id)
    try:
        opened.verify()
        return opened.header
    finally:
        opened.close()


def open_sums(pool: Pool, layer_id: str) -> tuple[sums.Sums | listed.Listed | None, set[int]]:
    """Give the checksums of a layer, None for one without, and the pages of its map they may not hold for.

    Raises Corrupt when they are missing.  To be asked only of pools that keep them.
    """
    try:
        contents = log.read_all(pool, layer_id)
    except NotFound:
        if pool.has_blob(listed.name_of(layer_id)):
            return listed.Listed(pool, layer_id), set()
        return sums.Sums(pool, layer_id), set()
    return (sums.Sums(pool, layer_id), contents.open_pages) if contents.header.sums else (None, set())


def read_log_header(pool: Pool, map_id: str) -> log.LogHeader:
    """Give the header of a period's log, all of which is read; raises NotFound or Corrupt."""
    return log.read_all(pool, map_id).header


def read_blob_header(pool: Pool, map_id: str) -> blob.BlobHeader:
    """Give the verified header of a frozen map; raises NotFound or Corrupt."""
    opened = blob.Blob(pool, map_id)
    opened.close()
    return opened.header


__all__ = [
    "consolidate",
    "empty_map",
    "flatten",
    "heal",
    "load_live_map",
    "load_map",
    "open_source",
    "open_sums",
    "owned_blocks",
    "read_blob_header",
    "read_log_header",
    "replay",
    "seal",
    "stored_segments",
    "used_aliases",
    "verify_blob",
]

# SPDX-License-Identifier: Apache-2.0
"""Which layers own a Fisk's blocks, coarsely: a picture of its map that stays small, whatever its size.

The bytes of a Fisk are cut into equal buckets; of each the layers that own most are told, and how much all
the others own.  Done a segment of the map at a time, so memory does not grow with size.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core._numpy import np
from fisk_core.blockmap import SEGMENT_PAGES, BlockMap
from fisk_core.services.marking import has_data

if TYPE_CHECKING:
    import numpy.typing as npt

    from fisk_core.catalog.fisks import Record
    from fisk_core.engine.context import Context

MAX_BUCKETS = 1024
SHARES = 4
"""layers told of one bucket"""


@dataclass(frozen=True, slots=True)
class PicturedLayer:
    """A layer with the ``bytes`` it owns of the Fisk.

    The larger its ``age``, the later it was begun; ``live`` is the one that is written to now.
    """

    id: str
    age: int
    bytes: int
    live: bool


@dataclass(frozen=True, slots=True)
class Share:
    """``bytes`` of a bucket owned by number ``layer`` of the picture's layers."""

    layer: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """The largest shares, largest first, and what layers besides them own; the rest are holes."""

    shares: list[Share]
    others: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A Fisk of ``size`` bytes in buckets of ``bucket`` bytes (the last one may be shorter).

    ``layers`` are those that the shares name, oldest first; the map may name more.
    """

    size: int
    bucket: int
    layers: list[PicturedLayer]
    buckets: list[Bucket]


def picture(context: "Context", record: "Record", buckets: int = 256) -> Picture:
    """Give the picture of a Fisk's map, as of what was flushed; raises NotFound and Corrupt."""
    with closing(context.load_map(record)) as block_map:
        block = block_map.block_size
        blocks = -(-record.size // block)
        per_bucket = max(1, -(-blocks // min(buckets, MAX_BUCKETS)))
        counts: list[dict[int, int]] = [{} for _ in range(-(-blocks // per_bucket))]
        for index in range(len(block_map.segments)):
            if has_data(block_map, index):
                _count(block_map, index, blocks, per_bucket, counts)
        live = None if record.frozen else record.map_id  # the layer of a period is called like its map
        return _told((record.size, block, per_bucket), block_map.layers, live, counts)


def _count(
    block_map: BlockMap, index: int, blocks: int, per_bucket: int, counts: list[dict[int, int]]
) -> None:
    """Add the blocks of one segment to the buckets they lie in; nothing beyond the Fisk's end counts."""
    first = index * SEGMENT_PAGES * block_map.geometry.blocks_per_page
    owners = block_map.owners(index)[: blocks - first]
    at = 0
    while at < len(owners):
        bucket = (first + at) // per_bucket
        end = min(len(owners), (bucket + 1) * per_bucket - first)
        for alias, count in _tally(owners[at:end]):
            counts[bucket][alias] = counts[bucket].get(alias, 0) + count
        at = end


def _tally(owners: "npt.NDArray[np.uint16]") -> list[tuple[int, int]]:
    if owners[0] == owners[-1] and (owners == owners[0]).all():  # most are like this, and this is quick
        return [(int(owners[0]), len(owners))]
    totals = np.bincount(owners)
    return [(alias, int(totals[alias])) for alias in np.flatnonzero(totals).tolist()]


def _told(
    sizes: tuple[int, int, int], layers: list[str | None], live: str | None, counts: list[dict[int, int]]
) -> Picture:
    size, block, per_bucket = sizes
    totals: dict[int, int] = {}
    for count in counts:
        count.pop(0, None)
        for alias, number in count.items():
            totals[alias] = totals.get(alias, 0) + number
    chosen = [sorted(count.items(), key=lambda item: -item[1])[:SHARES] for count in counts]
    aliases = sorted({alias for shares in chosen for alias, _ in shares})
    number_of = {alias: number for number, alias in enumerate(aliases)}
    named = [(alias, layers[alias] or "") for alias in aliases]
    return Picture(
        size,
        per_bucket * block,
        [PicturedLayer(layer, alias, totals[alias] * block, layer == live) for alias, layer in named],
        [
            Bucket(
                [Share(number_of[alias], number * block) for alias, number in shares],
                (sum(count.values()) - sum(number for _, number in shares)) * block,
            )
            for shares, count in zip(chosen, counts, strict=True)
        ],
    )

# SPDX-License-Identifier: Apache-2.0
"""Which blocks of which layers are still pointed to: the one place that answers this.

Everything is done a segment of the address space at a time, so memory does not grow with size.  Layers go
by id; the aliases of a map never leave this module.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from fisk_core._numpy import np
from fisk_core.blockmap import SEGMENT_PAGES, BlockMap, Geometry

if TYPE_CHECKING:
    import numpy.typing as npt

Marks: TypeAlias = "npt.NDArray[np.bool_]"


def blocks_per_segment(geometry: Geometry) -> int:
    return SEGMENT_PAGES * geometry.blocks_per_page


def mark(maps: Sequence[BlockMap], layers: Sequence[str], index: int) -> Marks:
    """Give, for each of ``layers``, which blocks of segment ``index`` any of ``maps`` points to.

    Shape (layers, blocks of a segment).  All maps have the same geometry.
    """
    marks = np.zeros((len(layers), blocks_per_segment(maps[0].geometry)), np.bool_)
    rows = {layer: row for row, layer in enumerate(layers)}
    for block_map in maps:
        if has_data(block_map, index):
            _mark_one(block_map, rows, index, marks)
    return marks


def _mark_one(block_map: BlockMap, rows: dict[str, int], index: int, marks: Marks) -> None:
    table = np.array([rows.get(layer or "", -1) for layer in block_map.layers], np.int32)
    found = table[block_map.owners(index)]
    blocks = np.flatnonzero(found >= 0)
    marks[found[blocks], blocks] = True


def has_data(block_map: BlockMap, index: int) -> bool:
    """Say whether a segment of a map may point to anything."""
    if index >= len(block_map.segments):
        return False
    return block_map.segments[index] is not None or not block_map.source.is_hole(index)


def runs(selected: Marks) -> Iterator[tuple[int, int]]:
    """Give (first, count) of the runs of True."""
    padded = np.concatenate(([False], selected, [False]))
    borders = np.flatnonzero(padded[1:] != padded[:-1])
    yield from ((int(start), int(end - start)) for start, end in borders.reshape(-1, 2))

# SPDX-License-Identifier: Apache-2.0
"""What changed between two maps: a comparison of two arrays, whatever lies between them in time."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fisk_core._numpy import np
from fisk_core.blockmap.pagemap import BlockMap
from fisk_core.blockmap.source import SEGMENT_PAGES, Owners
from fisk_core.errors import InvalidValue
from fisk_core.model import Change, Extent

if TYPE_CHECKING:
    import numpy.typing as npt


def diff(old: BlockMap, new: BlockMap) -> Iterator[Extent]:
    """Give the extents of ``new`` that may read differently from ``old``, in bytes, ascending.

    A block owned by the same layer in both is the same; a block both have as a hole too.  Anything else
    counts as changed (a superset: two layers may hold equal bytes).  Where the sizes differ, what only one
    of them has counts as a hole in the other.  Raises InvalidValue when the block sizes differ.
    """
    if old.geometry != new.geometry:
        raise InvalidValue("the two Fisks have different block or page sizes and cannot be compared")
    step = SEGMENT_PAGES * new.geometry.blocks_per_page
    translate = translation(old, new)
    count = max(len(old.segments), len(new.segments))
    runs = (
        (index * step + start, length, owner)
        for index in range(count)
        for start, length, owner in _changed(translate[_owners(old, index)], _owners(new, index))
    )
    yield from _extents(_merge(runs), new.block_size, max(old.size, new.size))


def translation(old: BlockMap, new: BlockMap) -> "npt.NDArray[Any]":
    """Give old alias → alias of the same layer in ``new``, or a number ``new`` cannot have."""
    aliases = {layer: alias for alias, layer in enumerate(new.layers)}
    foreign = len(new.layers)
    return np.array([aliases.get(layer, foreign) for layer in old.layers], np.uint32)


def _owners(block_map: BlockMap, index: int) -> Owners:
    blocks = SEGMENT_PAGES * block_map.geometry.blocks_per_page
    if index >= len(block_map.segments):
        return np.zeros(blocks, np.uint16)
    if block_map.segments[index] is None and block_map.source.is_hole(index):
        return np.zeros(blocks, np.uint16)
    return block_map.owners(index)


def _changed(old: "npt.NDArray[Any]", new: Owners) -> Iterator[tuple[int, int, int]]:
    """Give (first block, blocks, 1 where it holds data now else 0) for blocks that differ."""
    states = np.where(old == new, 2, new != 0).astype(np.uint8)
    borders = np.flatnonzero(states[1:] != states[:-1]) + 1
    starts = np.concatenate(([0], borders))
    ends = np.concatenate((borders, [len(states)]))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if states[start] != 2:
            yield start, end - start, int(states[start])


def _merge(runs: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    last: tuple[int, int, int] | None = None
    for first, count, kind in runs:
        if last and last[0] + last[1] == first and last[2] == kind:
            last = (last[0], last[1] + count, kind)
            continue
        if last:
            yield last
        last = (first, count, kind)
    if last:
        yield last


def _extents(runs: Iterable[tuple[int, int, int]], block_size: int, size: int) -> Iterator[Extent]:
    for first, count, kind in runs:
        offset = first * block_size
        if offset < size:
            length = min(count * block_size, size - offset)
            yield Extent(offset, length, Change.DATA if kind else Change.ZERO)

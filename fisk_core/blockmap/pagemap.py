# SPDX-License-Identifier: Apache-2.0
"""The block map in memory: block → owner, complete and flat, loaded a segment at a time.

``segments[s]`` is None until first needed, then a list of pages: an ``int`` when the page has one owner,
else an ``array('H')``.  The data path reads these lists directly (see ``dataplane.transmission``); every
change goes through :meth:`BlockMap.own` or keeps its rule: *a page that changed is in* :attr:`dirty`.
Not for several threads at once.
"""

from array import array
from collections.abc import Iterator

from fisk_core._numpy import np
from fisk_core.blockmap.log import Changes
from fisk_core.blockmap.source import MAX_ALIAS, SEGMENT_PAGES, Geometry, Owners, Page, Segment, Source
from fisk_core.errors import LimitExceeded


class BlockMap:
    """The map of one Fisk of ``size`` bytes.

    ``layers[alias]`` is a layer id (alias 0: None, a hole); ``live`` is the alias that writes get, 0 when
    the map is frozen.
    """

    def __init__(self, source: Source, size: int, live: int = 0) -> None:
        self.source, self.size, self.live = source, size, live
        self.geometry: Geometry = source.geometry
        self.block_size, self.page_size = self.geometry.block_size, self.geometry.page_size
        self.layers: list[str | None] = list(source.layers)
        self.segments: list[Segment | None] = [None] * self.geometry.segments(size)
        self.dirty: dict[int, int] = {}
        """page → blocks that changed owner there since the last :meth:`take_changes` (at least)"""

    def load(self, index: int) -> Segment:
        """Give segment ``index``, reading it from the source when it is not in memory; raises Corrupt."""
        segment = self.segments[index]
        if segment is None:
            segment = self.segments[index] = self.source.segment(index)
        return segment

    def page(self, number: int) -> Page:
        return self.load(number // SEGMENT_PAGES)[number % SEGMENT_PAGES]

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Give (first block, blocks, owner) for ``count`` blocks from ``first``, longest runs."""
        at, run_owner, run_count = first, -1, 0
        for owner, blocks in self._pieces(first, count):
            if owner == run_owner:
                run_count += blocks
                continue
            if run_count:
                yield at, run_count, run_owner
            at, run_owner, run_count = at + run_count, owner, blocks
        if run_count:
            yield at, run_count, run_owner

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Give (owner, blocks), cut at page borders and wherever the owner changes within a page."""
        per_page = self.geometry.blocks_per_page
        while count:
            number, start = divmod(first, per_page)
            blocks = min(count, per_page - start)
            if not start and self._unwritten(number // SEGMENT_PAGES):
                blocks = min(count, (SEGMENT_PAGES - number % SEGMENT_PAGES) * per_page)
                yield 0, blocks
            elif isinstance(page := self.page(number), int):
                yield page, blocks
            else:
                yield from _array_runs(page, start, start + blocks)
            first, count = first + blocks, count - blocks

    def _unwritten(self, index: int) -> bool:
        """Say whether a segment is all holes and not in memory: walking it must not load it."""
        return self.segments[index] is None and self.source.is_hole(index)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Give (offset, length, owner) in bytes for a byte range, longest runs, cut at the range's ends."""
        size, end = self.block_size, offset + length
        first = offset // size
        for block, count, owner in self.runs(first, -(-end // size) - first):
            start = max(offset, block * size)
            yield start, min(end, (block + count) * size) - start, owner

    def own(self, first: int, count: int, owner: int) -> None:
        """Make ``owner`` (the live alias or 0) the owner of ``count`` blocks from ``first``."""
        per_page = self.geometry.blocks_per_page
        while count:
            number, start = divmod(first, per_page)
            if not start and count >= per_page:
                done = self._own_pages(number, count // per_page, owner) * per_page
            else:
                done = min(count, per_page - start)
                self._own_blocks(number, start, done, owner)
            first, count = first + done, count - done

    def _own_pages(self, number: int, count: int, owner: int) -> int:
        """Set whole pages within one segment; gives how many."""
        index, slot = divmod(number, SEGMENT_PAGES)
        count = min(count, SEGMENT_PAGES - slot)
        if owner == 0 and self._unwritten(index):
            return count  # discarding what was never written must not cost memory
        segment = self.load(index)
        for at in range(slot, slot + count):
            page = segment[at]
            if page.__class__ is not int or page != owner:
                segment[at] = owner
                self.dirty[index * SEGMENT_PAGES + at] = self.geometry.blocks_per_page
        return count

    def _own_blocks(self, number: int, start: int, count: int, owner: int) -> None:
        segment = self.load(number // SEGMENT_PAGES)
        page = segment[number % SEGMENT_PAGES]
        if isinstance(page, int):
            if page == owner:
                return
            page = array("H", [page]) * self.geometry.blocks_per_page
            segment[number % SEGMENT_PAGES] = page
        page[start : start + count] = array("H", [owner]) * count
        self.dirty[number] = self.dirty.get(number, 0) + count

    def take_changes(self) -> Changes:
        """Give the pages that changed since the last call, copied, and forget that they did."""
        changes: Changes = []
        for number in sorted(self.dirty):
            page = self.page(number)
            changes.append((number, page if isinstance(page, int) else page.tobytes()))
        self.dirty.clear()
        return changes

    def collapse(self, numbers: list[int]) -> None:
        """Turn those of the pages that have one owner by now into one number."""
        for number in numbers:
            segment = self.load(number // SEGMENT_PAGES)
            page = segment[number % SEGMENT_PAGES]
            if not isinstance(page, int) and page.count(page[0]) == len(page):
                segment[number % SEGMENT_PAGES] = page[0]

    def begin_period(self, layer_id: str) -> None:
        """Freeze what was live and let further writes go to ``layer_id``; raises LimitExceeded."""
        if len(self.layers) > MAX_ALIAS:
            raise LimitExceeded(f"a map can name {MAX_ALIAS} layers and this one does")
        self.layers.append(layer_id)
        self.live = len(self.layers) - 1

    def resize(self, size: int) -> None:
        """Grow to ``size`` bytes; what is new are holes.  (Shrinking begins a new period instead.)"""
        more = self.geometry.segments(size) - len(self.segments)
        self.segments.extend([None] * more)
        self.size = size

    def owners(self, index: int) -> Owners:
        """Give the owner of each block of a segment, not keeping it in memory."""
        segment = self.segments[index]
        return flatten(self.source.segment(index) if segment is None else segment, self.geometry)

    def close(self) -> None:
        self.source.close()


def flatten(segment: Segment, geometry: Geometry) -> Owners:
    """Give the owners of every block of a segment."""
    owners = np.empty((SEGMENT_PAGES, geometry.blocks_per_page), np.uint16)
    for slot, page in enumerate(segment):
        owners[slot] = page
    return owners.reshape(-1)


def _array_runs(page: "array[int]", start: int, end: int) -> Iterator[tuple[int, int]]:
    if end - start > 16:
        yield from _numpy_runs(page, start, end)
        return
    while start < end:
        owner, at = page[start], start + 1
        while at < end and page[at] == owner:
            at += 1
        yield owner, at - start
        start = at


def _numpy_runs(page: "array[int]", start: int, end: int) -> Iterator[tuple[int, int]]:
    owners = np.frombuffer(page, np.uint16)[start:end]
    borders = np.flatnonzero(owners[1:] != owners[:-1]) + 1
    starts = [0, *borders.tolist()]
    for at, following in zip(starts, [*starts[1:], end - start], strict=True):
        yield int(owners[at]), following - at

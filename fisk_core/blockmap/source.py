# SPDX-License-Identifier: Apache-2.0
"""Where the pages of a map come from: nothing, a frozen blob, or a base with a log on top.

A source hands out *segments* of :data:`SEGMENT_PAGES` pages, each page either one owner (an ``int``) or
an ``array('H')`` with the owner of every block.  Owners are aliases: indexes into :attr:`Source.layers`,
0 being a hole.  A segment belongs to the caller, who may change it.
"""

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


SEGMENT_PAGES = 1024
MAX_ALIAS = 0xFFFE
"""Layers one map may name; 0xFFFF marks a mixed page in a blob."""

Page: TypeAlias = "int | array[int]"
Segment: TypeAlias = list[Page]
Owners: TypeAlias = "npt.NDArray[np.uint16]"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Bytes of a block and of a map page, both powers of two."""

    block_size: int
    page_size: int

    @property
    def blocks_per_page(self) -> int:
        return self.page_size // self.block_size

    def pages(self, size: int) -> int:
        """Pages that ``size`` bytes take."""
        return -(-size // self.page_size)

    def segments(self, size: int) -> int:
        """Segments that ``size`` bytes take."""
        return -(-self.pages(size) // SEGMENT_PAGES)


def to_page(owners: Owners) -> Page:
    """Give the page for an array of u16 owners, collapsed to one number where it can be."""
    first = int(owners[0])
    return first if (owners == first).all() else array("H", owners.tobytes())


class Source(Protocol):
    """The persistent content of a map."""

    geometry: Geometry
    layers: list[str | None]

    def segment(self, index: int) -> Segment:
        """Give the pages of a segment, always SEGMENT_PAGES of them; raises Corrupt."""

    def is_hole(self, index: int) -> bool:
        """Say cheaply whether the segment is known to be all holes; False may also mean unknown."""

    def close(self) -> None: ...


class Empty:
    """Every block is a hole: the base of a Fisk created from nothing."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.layers: list[str | None] = [None]

    def segment(self, index: int) -> Segment:
        return [0] * SEGMENT_PAGES

    def is_hole(self, index: int) -> bool:
        return True

    def close(self) -> None:
        pass


class Truncated:
    """Another source up to ``size`` bytes, holes behind it: what a Fisk sees of a larger or smaller base."""

    def __init__(self, base: Source, size: int) -> None:
        self.base, self.geometry, self.layers = base, base.geometry, base.layers
        self._blocks = -(-size // base.geometry.block_size)

    def is_hole(self, index: int) -> bool:
        first_block = index * SEGMENT_PAGES * self.geometry.blocks_per_page
        return first_block >= self._blocks or self.base.is_hole(index)

    def segment(self, index: int) -> Segment:
        per_page = self.geometry.blocks_per_page
        first = index * SEGMENT_PAGES
        if first * per_page >= self._blocks:
            return [0] * SEGMENT_PAGES
        pages = self.base.segment(index)
        whole, rest = divmod(self._blocks - first * per_page, per_page)
        if whole >= SEGMENT_PAGES:
            return pages
        if rest:
            edge = pages[whole]
            kept = array("H", [edge]) * rest if isinstance(edge, int) else edge[:rest]
            pages[whole] = kept + array("H", [0]) * (per_page - rest)
        cut = whole + bool(rest)
        pages[cut:] = [0] * (SEGMENT_PAGES - cut)
        return pages

    def close(self) -> None:
        self.base.close()

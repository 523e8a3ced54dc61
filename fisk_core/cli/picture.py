# SPDX-License-Identifier: Apache-2.0
"""The picture ``fisk map`` draws: a Fisk's address space as rows of cells, each in the letter of the layer
that owns most of it.

Upper case: the layer owns at least half of the cell; lower case: less, the rest being holes or others'.
``.`` is a hole.  The 26 layers with the most blocks have a letter, all others share ``+``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from fisk_core.blockmap import SEGMENT_PAGES
from fisk_core.services.marking import has_data
from fisk_core.units import format_size

if TYPE_CHECKING:
    from fisk_core.blockmap import BlockMap

HOLE, OTHERS = ".", "+"
_FEWEST_CELLS = 10
_ALIAS_BITS = 16

Tally = Counter[tuple[int, int]]
"""(cell, owner) → blocks, or bytes"""


@dataclass(frozen=True, slots=True)
class LayerShare:
    """A layer and how many bytes of the Fisk it owns."""

    letter: str
    layer_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Picture:
    """``cells`` are single characters, each for ``cell_size`` bytes; ``layers`` are ordered by letter."""

    cells: str
    cell_size: int
    layers: Sequence[LayerShare]


def draw(block_map: "BlockMap", most_cells: int) -> Picture:
    """Give the picture of a map in at most ``most_cells`` cells; raises Corrupt."""
    cell_size = block_map.block_size
    while -(-block_map.size // cell_size) > most_cells:
        cell_size *= 2
    tally = _count(block_map, cell_size // block_map.block_size)
    owners = [layer or "" for layer in block_map.layers]
    return _assembled(tally, owners, block_map.size, cell_size, block_map.block_size)


def drawn(told: Mapping[str, Any]) -> Picture:
    """Give the picture of a map a daemon told of; where a cell has many owners, of the largest of them."""
    tally: Tally = Counter()
    for cell, bucket in enumerate(told["buckets"]):
        for share in bucket["shares"]:
            tally[cell, share["layer"]] += share["bytes"]
    owners = [layer["id"] for layer in told["layers"]]
    return _assembled(tally, owners, told["size"], told["bucket"], 1)


def _assembled(tally: Tally, owners: Sequence[str], size: int, cell_size: int, unit: int) -> Picture:
    """Give the picture of what was counted in units of so many bytes; ``owners`` are ids of layers."""
    totals: Counter[int] = Counter()
    for (_, owner), blocks in tally.items():
        totals[owner] += blocks
    letters = _letters(totals)
    shares = [LayerShare(letter, owners[owner], totals[owner] * unit) for owner, letter in letters.items()]
    cells = _cells(tally, letters, -(-size // cell_size), cell_size // unit)
    return Picture(cells, cell_size, sorted(shares, key=_by_letter))


def _by_letter(share: LayerShare) -> tuple[bool, str, int]:
    return share.letter == OTHERS, share.letter, -share.size


def _letters(totals: Counter[int]) -> dict[int, str]:
    """Give owner → letter, older layers earlier in the alphabet."""
    lettered = sorted(owner for owner, _ in totals.most_common(len(ascii_uppercase)))
    return {**dict.fromkeys(totals, OTHERS), **dict(zip(lettered, ascii_uppercase, strict=False))}


def _cells(tally: Tally, letters: Mapping[int, str], count: int, blocks_per_cell: int) -> str:
    best: dict[int, tuple[int, int]] = {}
    for (cell, owner), blocks in tally.items():
        best[cell] = max(best.get(cell, (0, 0)), (blocks, owner))
    cells = [HOLE] * count
    for cell, (blocks, owner) in best.items():
        letter = letters[owner]
        cells[cell] = letter if blocks * 2 >= blocks_per_cell else letter.lower()
    return "".join(cells)


def _count(block_map: "BlockMap", blocks_per_cell: int) -> Tally:
    """Count who owns what, page by page: most pages are one number."""
    per_page = block_map.geometry.blocks_per_page
    last = -(-block_map.size // block_map.block_size)
    tally: Tally = Counter()
    for index in range(len(block_map.segments)):
        if not has_data(block_map, index):
            continue
        for number, page in enumerate(block_map.load(index), index * SEGMENT_PAGES):
            first = number * per_page
            if not isinstance(page, int):
                _add_mixed(tally, np.frombuffer(page, np.uint16), first, blocks_per_cell)
            elif page:
                _add_run(tally, page, first, min(first + per_page, last), blocks_per_cell)
    return tally


def _add_run(tally: Tally, owner: int, first: int, end: int, blocks_per_cell: int) -> None:
    while first < end:
        cell = first // blocks_per_cell
        border = min(end, (cell + 1) * blocks_per_cell)
        tally[cell, owner] += border - first
        first = border


def _add_mixed(
    tally: Tally, owners: "np.ndarray[tuple[int], np.dtype[np.uint16]]", first: int, blocks_per_cell: int
) -> None:
    at = np.flatnonzero(owners)
    keys = ((at + first) // blocks_per_cell << _ALIAS_BITS) | owners[at]
    for key, blocks in zip(*np.unique(keys, return_counts=True), strict=True):
        tally[int(key) >> _ALIAS_BITS, int(key) & ((1 << _ALIAS_BITS) - 1)] += int(blocks)


def shape(width: int, height: int) -> tuple[int, int]:
    """Give (cells in a row, most cells) for ``width`` columns and ``height`` rows."""
    in_row = max(_FEWEST_CELLS, width - label_width())
    in_row = 1 << (in_row.bit_length() - 1)  # rows then begin at round offsets
    return in_row, in_row * max(1, height)


def label_width() -> int:
    """Columns the offset before a row takes."""
    return len("1023.9 GiB  ")


def rows(picture: Picture, in_row: int) -> Iterator[tuple[str, str]]:
    """Give (offset for people, cells) of each row."""
    for start in range(0, len(picture.cells), in_row):
        offset = format_size(start * picture.cell_size)
        yield offset.rjust(label_width() - 2) + "  ", picture.cells[start : start + in_row]

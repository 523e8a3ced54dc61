# SPDX-License-Identifier: Apache-2.0
"""The picture of a map: every cell checked against a naive count of who owns its blocks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisk_core.blockmap import BlockMap, Geometry, empty_map
from fisk_core.cli.picture import HOLE, OTHERS, Picture, draw, rows, shape

BLOCK, PAGE = 512, 2048


def make_map(blocks: int, writes: list[tuple[int, int, int]], layers: int) -> BlockMap:
    """Give a map of ``blocks`` blocks to which layer 1, 2 … wrote (layer, first block, count), in order."""
    block_map = empty_map(Geometry(BLOCK, PAGE), blocks * BLOCK)
    for layer in range(1, layers + 1):
        block_map.begin_period(f"layer-{layer}")
        for owner, first, count in writes:
            if owner == layer:
                block_map.own(first, min(count, blocks - first), layer)
    return block_map


def naive(block_map: BlockMap, cell_size: int) -> list[Counter[int]]:
    """Give the owners of each cell, block by block."""
    cells = []
    for start in range(0, block_map.size, cell_size):
        end = min(start + cell_size, block_map.size)
        cells.append(Counter(owner_at(block_map, at) for at in range(start, end, BLOCK)))
    return cells


def owner_at(block_map: BlockMap, offset: int) -> int:
    ((_, _, owner),) = block_map.extents(offset, 1)
    return owner


def letters(picture: Picture) -> dict[str, str]:
    return {share.layer_id: share.letter for share in picture.layers}


WRITES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99), st.integers(1, 30)), max_size=12)


@given(writes=WRITES, most=st.integers(1, 40))
def test_each_cell_has_the_letter_of_who_owns_most_of_it(writes, most):
    block_map = make_map(100, writes, 4)
    picture = draw(block_map, most)
    counted = naive(block_map, picture.cell_size)
    assert len(picture.cells) == len(counted) <= most
    by_layer = letters(picture)
    for shown, owners in zip(picture.cells, counted, strict=True):
        del owners[0]
        if not owners:
            assert shown == HOLE
            continue
        largest = max(owners.values())
        candidates = {by_layer[f"layer-{owner}"] for owner, blocks in owners.items() if blocks == largest}
        assert shown.upper() in candidates
        assert shown.isupper() == (largest * BLOCK * 2 >= picture.cell_size)


@given(writes=WRITES)
def test_the_legend_adds_up(writes):
    block_map = make_map(100, writes, 4)
    owners = Counter(owner_at(block_map, at) for at in range(0, block_map.size, BLOCK))
    shares = {share.layer_id: share.size for share in draw(block_map, 10).layers}
    assert shares == {f"layer-{owner}": count * BLOCK for owner, count in owners.items() if owner}


def test_older_layers_come_earlier_in_the_alphabet():
    picture = draw(make_map(100, [(1, 0, 5), (2, 20, 50), (3, 90, 1)], 3), 100)
    assert letters(picture) == {"layer-1": "A", "layer-2": "B", "layer-3": "C"}


def test_beyond_26_layers_the_smallest_share_a_sign():
    writes = [(layer, 3 * layer, 1 if layer in (5, 9) else 2) for layer in range(1, 29)]
    picture = draw(make_map(100, writes, 28), 100)
    by_layer = letters(picture)
    assert by_layer["layer-5"] == by_layer["layer-9"] == OTHERS
    assert sorted(by_layer.values()) == [OTHERS, OTHERS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    assert [share.letter for share in picture.layers[-2:]] == [OTHERS, OTHERS]
    assert picture.cells[15] == OTHERS


def test_a_huge_empty_map_is_drawn_at_once():
    block_map = empty_map(Geometry(4096, 4 << 20), 64 << 40)
    picture = draw(block_map, 1024)
    assert set(picture.cells) == {HOLE}
    assert picture.cell_size * len(picture.cells) == 64 << 40
    assert all(segment is None for segment in block_map.segments)


@pytest.mark.parametrize("width", [1, 20, 80, 81, 120, 400])
def test_a_row_fits_the_width_and_begins_at_a_round_offset(width):
    in_row, most = shape(width, 5)
    assert most == 5 * in_row
    assert in_row & (in_row - 1) == 0
    lines = list(rows(draw(make_map(100, [(1, 0, 100)], 1), most), in_row))
    assert 1 <= len(lines) <= 5
    assert all(len(offset) + len(cells) <= max(width, 24) for offset, cells in lines)
    assert "".join(cells for _, cells in lines) == "A" * sum(len(cells) for _, cells in lines)

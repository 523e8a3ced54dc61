# SPDX-License-Identifier: Apache-2.0
"""Differences of maps against comparing them block by block."""

import random
from itertools import pairwise

import pytest

from fisk_core.blockmap import consolidate, diff, load_live_map, load_map
from fisk_core.dataplane.disk import Disk
from fisk_core.errors import InvalidValue
from fisk_core.model import Change, Extent
from tests.disks import TINY, USUAL, make_pool, make_spec

SEGMENT = 2048 * 1024
SIZES = [3 * SEGMENT, SEGMENT + 700, SEGMENT // 2, 2 * SEGMENT]


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


def lineage(pool, seed):
    """Maps of Fisks that descend from one another, of different sizes, some consolidated; all frozen."""
    chance, specs = random.Random(seed), []
    for number, size in enumerate(SIZES):
        base = chance.choice(specs) if specs and number < 3 else None
        spec = make_spec(
            pool, size, base=base and base.map_id, base_size=min(size, base.size) if base else None
        )
        with Disk.open(pool, spec) as disk:
            for _ in range(30):
                offset = min(size - 1, chance.choice([0, SEGMENT - 3000, chance.randrange(size)]))
                length = min(size - offset, chance.choice([512, 2048, 10_000]))
                chance.choice([disk.trim, lambda at, n, d=disk: d.write(at, b"x" * n)])(offset, length)
        if chance.random() < 0.5:
            consolidate(pool, spec.map_id, size)
        specs.append(spec)
    return specs


def naive(old, new, old_size, new_size):
    """(block, change) for each block whose owner's layer differs."""

    def layers(block_map, size):
        found = {}
        for first, count, owner in block_map.runs(0, -(-size // 512)):
            found.update(dict.fromkeys(range(first, first + count), block_map.layers[owner]))
        return found

    before, after = layers(old, old_size), layers(new, new_size)
    return {
        block: Change.DATA if after.get(block) else Change.ZERO
        for block in range(-(-max(old_size, new_size) // 512))
        if before.get(block) != after.get(block)
    }


@pytest.mark.parametrize("seed", range(5))
def test_like_a_comparison_block_by_block(pool, seed):
    specs = lineage(pool, seed)
    for old in specs:
        for new in specs:
            one, two = load_map(pool, old.map_id, old.size), load_map(pool, new.map_id, new.size)
            if seed % 2:
                two.load(0)
            extents = list(diff(one, two))
            wanted = naive(one, two, old.size, new.size)
            end = -1
            found = {}
            for extent in extents:
                assert extent.offset >= end, "ascending, not overlapping"
                end = extent.offset + extent.length
                blocks = range(extent.offset // 512, -(-end // 512))
                found.update(dict.fromkeys(blocks, extent.change))
            assert found == wanted
            for left, right in pairwise(extents):
                assert left.offset + left.length < right.offset or left.change != right.change
            assert not extents or end <= max(old.size, new.size)
            assert bool(extents) == (bool(wanted))
            one.close()
            two.close()


def test_the_end_of_a_disk_that_is_no_whole_block(pool):
    old, new = make_spec(pool, 1000), make_spec(pool, 1000)
    with Disk.open(pool, new) as disk:
        disk.write(0, b"x" * 1000)
    one, two = load_map(pool, old.map_id, 1000), load_map(pool, new.map_id, 1000)
    assert list(diff(one, two)) == [Extent(0, 1000, Change.DATA)]
    assert list(diff(two, one)) == [Extent(0, 1000, Change.ZERO)]


def test_what_maps_have_behind_their_end_is_not_told(pool):
    """A map that is being written is opened whole; its Fisk may have become smaller."""
    specs = [make_spec(pool, 5000) for _ in range(2)]
    for number, spec in enumerate(specs):
        with Disk.open(pool, spec) as disk:
            disk.write(512 * number, b"x" * (1024 + 2000 * number))
            disk.write(4096, b"x" * 904)
    one, two = (load_live_map(pool, spec.map_id, 1000) for spec in specs)
    assert list(diff(one, two)) == [Extent(0, 512, Change.ZERO), Extent(512, 488, Change.DATA)]


def test_maps_of_other_geometry_are_refused(pool):
    one, two = make_spec(pool, 1 << 20, TINY), make_spec(pool, 1 << 20, USUAL)
    with pytest.raises(InvalidValue, match="the two Fisks have different block or page sizes and cannot be"):
        list(diff(load_map(pool, one.map_id, 1 << 20), load_map(pool, two.map_id, 1 << 20)))

# SPDX-License-Identifier: Apache-2.0
"""The map in memory against a plain list of owners."""

import random

import pytest

from fisk_core.blockmap import SEGMENT_PAGES, Geometry, pagemap
from fisk_core.blockmap.blob import pack_segment, unpack_segment
from fisk_core.blockmap.log import LIVE, Logged, LogHeader
from fisk_core.blockmap.pagemap import BlockMap
from fisk_core.blockmap.source import Empty, Truncated, to_page
from fisk_core.errors import LimitExceeded
from tests.disks import new_id

TINY = Geometry(512, 2048)
WIDE = Geometry(512, 512 * 64)
PER_SEGMENT = SEGMENT_PAGES * TINY.page_size


def live_map(geometry, size):
    block_map = BlockMap(Empty(geometry), size)
    block_map.begin_period(new_id())
    return block_map


def owners_of(block_map):
    """Every block's owner, from the map's runs, which must be the longest."""
    blocks, found, last = -(-block_map.size // block_map.block_size), [], None
    for first, count, owner in block_map.runs(0, blocks):
        assert first == len(found)
        assert owner != last
        assert count > 0
        last = owner
        found += [owner] * count
    assert len(found) == blocks
    return found


@pytest.mark.parametrize("geometry", [TINY, WIDE], ids=["tiny", "wide"])
@pytest.mark.parametrize("seed", range(4))
def test_random_changes(geometry, seed):
    chance = random.Random(seed)
    size = geometry.page_size * (SEGMENT_PAGES + 7) - 700
    blocks = -(-size // 512)
    block_map, model, changed = live_map(geometry, size), [0] * blocks, set()
    hot = [0, geometry.blocks_per_page, SEGMENT_PAGES * geometry.blocks_per_page, blocks - 1]
    for turn in range(300):
        first = max(0, min(blocks - 1, chance.choice(hot) + chance.randrange(-40, 40)))
        count = min(blocks - first, chance.choice([1, 2, 3, geometry.blocks_per_page, 300]))
        owner = chance.choice([0, block_map.live])
        block_map.own(first, count, owner)
        changed |= {
            at // geometry.blocks_per_page for at in range(first, first + count) if model[at] != owner
        }
        model[first : first + count] = [owner] * count
        assert changed <= set(block_map.dirty)
        first = chance.randrange(blocks)
        count = chance.randrange(min(200, blocks - first) + 1)
        assert [owner for _, n, owner in block_map.runs(first, count) for _ in range(n)] == model[
            first : first + count
        ]
        if turn % 60 == 59:
            assert owners_of(block_map) == model
            if chance.random() < 0.5:
                block_map.collapse(list(block_map.dirty))
            numbers = [number for number, _ in block_map.take_changes()]
            assert numbers == sorted(numbers)
            assert changed <= set(numbers)
            assert not block_map.dirty
            changed.clear()
            block_map.begin_period(new_id())
    assert owners_of(block_map) == model
    for index in range(len(block_map.segments)):
        start = index * SEGMENT_PAGES * geometry.blocks_per_page
        part = model[start : start + SEGMENT_PAGES * geometry.blocks_per_page]
        assert block_map.owners(index).tolist()[: len(part)] == part


def test_extents_are_cut_at_the_range():
    block_map = live_map(TINY, 1 << 20)
    block_map.own(3, 2, 1)
    assert list(block_map.extents(700, 2000)) == [(700, 836, 0), (1536, 1024, 1), (2560, 140, 0)]
    assert list(block_map.extents(1537, 5)) == [(1537, 5, 1)]
    assert list(block_map.extents(512, 0)) == []


def test_discarding_what_was_never_written_takes_no_memory():
    block_map = live_map(TINY, 100 * PER_SEGMENT)
    block_map.own(0, 100 * SEGMENT_PAGES * 4, 0)
    assert block_map.segments == [None] * 100
    assert not block_map.dirty
    assert list(block_map.extents(0, 100 * PER_SEGMENT)) == [(0, 100 * PER_SEGMENT, 0)]


def test_pages_collapse_to_one_owner():
    block_map = live_map(TINY, 1 << 20)
    for block in range(4):
        block_map.own(block, 1, 1)
    block_map.own(5, 1, 1)
    assert not isinstance(block_map.page(0), int)
    block_map.collapse([0, 1, 2])
    assert block_map.page(0) == 1
    assert list(block_map.page(1)) == [0, 1, 0, 0]


def test_owning_again_changes_nothing():
    block_map = live_map(TINY, 1 << 20)
    block_map.own(0, 8, 1)
    block_map.take_changes()
    block_map.own(0, 8, 1)
    block_map.own(1, 2, 1)
    assert not block_map.dirty


def test_a_map_names_so_many_layers_and_no_more(monkeypatch):
    monkeypatch.setattr(pagemap, "MAX_ALIAS", 3)
    block_map = BlockMap(Empty(TINY), 1 << 20)
    for live in (1, 2, 3):
        block_map.begin_period(layer := new_id())
        assert (block_map.live, block_map.layers[live:]) == (live, [layer])
    with pytest.raises(LimitExceeded, match="a map can name 3 layers and this one does"):
        block_map.begin_period(new_id())


def test_growing():
    block_map = live_map(TINY, 512)
    block_map.own(0, 1, 1)
    block_map.resize(3 * PER_SEGMENT + 1)
    assert len(block_map.segments) == 4
    block_map.own(3 * SEGMENT_PAGES * 4, 1, 1)
    assert list(block_map.runs(0, 3 * SEGMENT_PAGES * 4 + 1))[-1] == (3 * SEGMENT_PAGES * 4, 1, 1)


@pytest.mark.parametrize(
    "size", [0, 1, 512, 700, 2048, 3000, PER_SEGMENT - 1, PER_SEGMENT, PER_SEGMENT + 513]
)
def test_a_base_of_which_less_is_seen(size):
    block_map = live_map(TINY, 3 * PER_SEGMENT)
    block_map.own(0, 5000, 1)
    block_map.own(5001, 7000, 1)

    class Memory(Empty):
        def segment(self, index):
            return list(block_map.load(index))

        def is_hole(self, index):
            return False

    seen = Truncated(Memory(TINY), size)
    cut = -(-size // 512)
    whole = [0 if at == 5000 or at >= 12_001 else 1 for at in range(3 * SEGMENT_PAGES * 4)]
    for index in range(3):
        start = index * SEGMENT_PAGES * 4
        wanted = [
            owner if start + at < cut else 0 for at, owner in enumerate(whole[start:][: SEGMENT_PAGES * 4])
        ]
        assert pagemap.flatten(seen.segment(index), TINY).tolist() == wanted
        assert seen.is_hole(index) == (start >= cut)
    seen.close()


def test_segments_pack_and_unpack():
    chance = random.Random(1)
    owners = [
        [chance.choice([0, 1, 65_534])] * 4 if slot % 3 else chance.choices(range(9), k=4)
        for slot in range(1024)
    ]
    pages = [to_page(pagemap.np.array(page, pagemap.np.uint16)) for page in owners]
    data = pack_segment(pages)
    assert unpack_segment(data, 4) == pages
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(ValueError, match="length"):
            unpack_segment(wrong, 4)


def test_a_log_over_a_base_knows_its_holes():
    header = LogHeader(new_id(), None, new_id(), 0, TINY)
    logged = Logged(Empty(TINY), header, {SEGMENT_PAGES + 1: (LIVE, b"")})
    assert logged.is_hole(0)
    assert not logged.is_hole(1)
    assert logged.segment(1)[:3] == [0, 1, 0]
    logged.close()

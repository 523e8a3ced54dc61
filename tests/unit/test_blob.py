# SPDX-License-Identifier: Apache-2.0
"""Frozen maps: they come back as they were, and any damage is noticed."""

import random

import pytest

from fisk_core.blockmap import consolidate, load_map, owned_blocks, read_blob_header, verify_blob
from fisk_core.errors import Corrupt, Unsupported
from tests.disks import TINY, frozen, make_disk, make_pool, make_spec
from tests.unit.test_log import pool_path


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def blob(pool):
    """A map over three segments with single, mixed and empty pages; gives (pool, map id, size, path)."""
    size = 6 << 20
    disk = make_disk(pool, size)
    disk.write(0, b"a" * 100_000)
    disk.write(150_528, b"b" * 512)
    disk.write((4 << 20) + 512, b"c" * 1024)
    disk.close()
    map_id = disk.spec.map_id
    consolidate(pool, map_id, size)
    return map_id, size, pool_path(pool) / "blobs" / "maps" / map_id


def test_round_trip(pool, blob):
    map_id, size, _ = blob
    block_map = load_map(pool, map_id, size)
    assert block_map.layers == [None, map_id]
    assert owned_blocks(block_map) == {1: -(-100_000 // 512) + 1 + 2}
    assert list(block_map.extents(150_000, 2000)) == [
        (150_000, 528, 0),
        (150_528, 512, 1),
        (151_040, 960, 0),
    ]
    block_map.close()


def test_unreferenced_layers_are_not_named(pool):
    size = 1 << 20
    first = make_disk(pool, size)
    first.write(0, b"x" * 512)
    first.close()
    spec = make_spec(pool, size, base=first.spec.map_id)
    from fisk_core.dataplane.disk import Disk

    second = Disk.open(pool, spec)
    second.write(0, b"y" * 512)
    second.close()
    assert consolidate(pool, spec.map_id, size) == {spec.map_id}
    assert read_blob_header(pool, spec.map_id).layers == [None, spec.map_id]
    with Disk.open(pool, frozen(spec)) as disk:
        assert disk.read(0, 512) == b"y" * 512


def test_every_flipped_bit_is_reported(pool, blob):
    map_id, _, path = blob
    good = path.read_bytes()
    chance = random.Random(11)
    for _ in range(400):
        position, bit = chance.randrange(len(good)), 1 << chance.randrange(8)
        path.write_bytes(good[:position] + bytes([good[position] ^ bit]) + good[position + 1 :])
        with pytest.raises((Corrupt, Unsupported)):
            verify_blob(pool, map_id)
    path.write_bytes(good)
    verify_blob(pool, map_id)


@pytest.mark.parametrize("length", [0, 10, 87, 100, 150])
def test_a_cut_blob_is_reported(pool, blob, length):
    map_id, _, path = blob
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Corrupt):
        verify_blob(pool, map_id)


def test_longer_than_it_says_is_reported(pool, blob):
    map_id, _, path = blob
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(Corrupt):
        verify_blob(pool, map_id)


def test_a_smaller_view_of_a_map_hides_the_rest(pool, blob):
    map_id, _, _ = blob
    block_map = load_map(pool, map_id, 100_000 - 50_000)
    assert owned_blocks(block_map) == {1: -(-50_000 // TINY.block_size)}
    block_map.close()

# SPDX-License-Identifier: Apache-2.0
"""The picture of a map, against what was written, and the space of a pool."""

import pytest

from fisk_core.errors import NotFound
from fisk_core.services.picture import MAX_BUCKETS, SHARES, Bucket, picture
from fisk_core.services.space import pool_space
from tests.engines import BLOCK, MIB, PAGE, make_volume, write


def pictured(engine, ref, buckets):
    return picture(engine, engine.find(ref), buckets)


def owned(found):
    """Give the bytes of each bucket by age of the layer."""
    return [{found.layers[share.layer].age: share.bytes for share in each.shares} for each in found.buckets]


def test_nothing_written_is_all_holes(engine):
    make_volume(engine)
    found = pictured(engine, "volume", 4)
    assert found.size == MIB
    assert found.bucket == MIB // 4
    assert found.layers == []
    assert found.buckets == [Bucket([], 0)] * 4


def test_layers_of_a_life_by_age(engine):
    make_volume(engine, content=b"a" * (MIB // 2))
    engine.snapshot("volume", "first")
    write(engine, "volume", MIB // 4, b"b" * BLOCK)
    found = pictured(engine, "volume", 4)
    assert owned(found) == [{1: MIB // 4}, {1: MIB // 4 - BLOCK, 2: BLOCK}, {}, {}]
    assert [(layer.age, layer.bytes, layer.live) for layer in found.layers] == [
        (1, MIB // 2 - BLOCK, False),
        (2, BLOCK, True),
    ]
    assert [layer.live for layer in pictured(engine, "first", 4).layers] == [False]


def test_a_clone_shows_its_sources_layers(engine):
    make_volume(engine, content=b"a" * PAGE)
    engine.snapshot("volume", "first")
    engine.clone("first", "clone")
    assert pictured(engine, "clone", 2).layers[0].id == pictured(engine, "first", 2).layers[0].id


def test_no_more_shares_than_told_the_others_summed(engine):
    make_volume(engine)
    for number in range(SHARES + 3):
        write(engine, "volume", number * 4 * BLOCK, b"x" * BLOCK * (1 + number % 3))
        engine.snapshot("volume", f"s{number}")
    (bucket,) = pictured(engine, "volume", 1).buckets
    assert len(bucket.shares) == SHARES
    assert [share.bytes for share in bucket.shares] == sorted((s.bytes for s in bucket.shares), reverse=True)
    everything = sum(1 + number % 3 for number in range(SHARES + 3)) * BLOCK
    assert sum(share.bytes for share in bucket.shares) + bucket.others == everything


def test_buckets_are_whole_blocks_and_cover_the_end(engine):
    make_volume(engine, size=5 * BLOCK, content=b"x" * 5 * BLOCK)
    found = pictured(engine, "volume", 2)
    assert found.bucket == 3 * BLOCK
    assert owned(found) == [{1: 3 * BLOCK}, {1: 2 * BLOCK}]
    assert len(pictured(engine, "volume", 1000).buckets) == 5


def test_number_of_buckets_is_bounded(engine):
    make_volume(engine, size=8 * MIB)
    assert len(pictured(engine, "volume", 10**9).buckets) == MAX_BUCKETS


def test_space_counts_layers_and_what_may_be_garbage(engine):
    make_volume(engine, content=b"a" * MIB)
    engine.snapshot("volume", "first")
    write(engine, "volume", 0, b"b" * (MIB // 2))
    engine.delete("first")
    engine.settle()
    found = pool_space(engine, "default", 75.0)
    assert found.layers == 2
    assert found.layer_bytes >= MIB + MIB // 2
    assert found.suspect == 1
    assert MIB <= found.suspect_bytes <= found.layer_bytes
    assert 0 < found.free < found.total
    assert found.high_water == 75.0
    engine.delete("volume")
    assert pool_space(engine, "default", 75.0).layers == 0


def test_space_of_no_pool(engine):
    with pytest.raises(NotFound):
        pool_space(engine, "nothing", 90.0)

# SPDX-License-Identifier: Apache-2.0
"""A period nobody writes any more: sealing it, and logging what its writer noted and never flushed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.blockmap import (
    LogHeader,
    create_log,
    empty_map,
    load_live_map,
    owned_blocks,
    read_log_header,
    replay,
    seal,
    stored_segments,
)
from fisk_core.blockmap import log as logs
from fisk_core.blockmap.journal import Change
from fisk_core.errors import NotFound, PoolError
from fisk_core.pools import Kind
from tests.disks import TINY, USUAL, make_disk, make_pool, make_spec, new_id

BLOCKS = 50
SIZE = BLOCKS * 512 - 100


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def steps(pool, monkeypatch):
    """(call, kind) of each call that writes or makes durable, in order; the pool is made to tell."""
    made, kinds = [], {}
    real = pool.open_device

    def open_device(kind, name, writable):
        device = real(kind, name, writable=writable)
        kinds[id(device)] = kind
        for verb in ("flush", "pwritev"):
            usual = getattr(device, verb)

            def call(*arguments, verb=verb, usual=usual):
                made.append((verb, str(kind)))
                return usual(*arguments)

            setattr(device, verb, call)
        return device

    monkeypatch.setattr(pool, "open_device", open_device)
    return made


def never():
    raise AssertionError("nothing is to be forgotten")


def owners(pool, map_id):
    """Give the owner's layer of each block."""
    block_map = load_live_map(pool, map_id, SIZE)
    found = [block_map.layers[owner] for _, count, owner in block_map.runs(0, BLOCKS) for _ in range(count)]
    block_map.close()
    return found


changes = st.lists(
    st.builds(Change, st.integers(0, BLOCKS - 1), st.integers(1, BLOCKS), st.booleans()), max_size=8
)


@given(changes, st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_what_was_noted_is_in_the_log_in_its_order_and_as_often_as_one_likes(tmp_path_factory, noted, again):
    pool = make_pool(tmp_path_factory.mktemp("r") / "pool")
    base = make_disk(pool, SIZE)
    base.write(0, b"b" * 5000)
    base.close()
    period = make_spec(pool, SIZE, base=base.spec.map_id)
    model = [base.spec.map_id] * 10 + [None] * (BLOCKS - 10)
    # A flush that was under way may have brought any number of the first of them into the log.
    replay(pool, period.map_id, SIZE, noted[:again], never)
    blocks = replay(pool, period.map_id, SIZE, iter(noted), never)
    for first, count, live in noted:
        count = min(count, BLOCKS - first)
        model[first : first + count] = [period.map_id if live else None] * count
    assert owners(pool, period.map_id) == model
    assert blocks == sum(min(change.blocks, BLOCKS - change.first) for change in noted)


def test_data_is_durable_before_the_log_that_speaks_of_it(pool, steps):
    spec = make_spec(pool, SIZE)
    assert replay(pool, spec.map_id, SIZE, [Change(3, 2, True)], never) == 2
    assert steps == [("flush", "layer"), ("pwritev", "log"), ("flush", "log")]
    steps.clear()
    seal(pool, spec.map_id)
    assert steps == [("flush", "layer"), ("flush", "log")]
    assert pool.usage(Kind.LOG, spec.map_id) <= 4096, "what was reserved ahead is given back"


def test_data_that_cannot_be_made_durable_is_forgotten(pool, monkeypatch):
    """The kernel may have dropped it, and would say the next time that all is well."""
    spec, forgotten, real = make_spec(pool, SIZE), [], pool.open_device

    def open_device(kind, name, writable):
        device = real(kind, name, writable=writable)
        if kind is Kind.LAYER:
            device.flush = failing
        return device

    def failing():
        raise PoolError("the medium failed")

    monkeypatch.setattr(pool, "open_device", open_device)
    with pytest.raises(PoolError, match="the medium failed"):
        replay(pool, spec.map_id, SIZE, [Change(3, 2, True)], lambda: forgotten.append(1))
    assert forgotten == [1]
    assert owners(pool, spec.map_id) == [None] * BLOCKS


@pytest.mark.parametrize("geometry", [TINY, USUAL])
def test_the_map_of_a_fisk_nothing_was_written_to(geometry):
    block_map = empty_map(geometry, SIZE)
    assert (block_map.size, block_map.geometry, block_map.layers, block_map.live) == (
        SIZE,
        geometry,
        [None],
        0,
    )
    assert [owner for _, _, owner in block_map.runs(0, 6)] == [0]
    block_map.close()


def test_the_header_of_a_log(pool):
    header = LogHeader(new_id(), new_id(), new_id(), 12345, TINY)
    create_log(pool, header)
    assert read_log_header(pool, header.map_id) == header
    with pytest.raises(NotFound):
        read_log_header(pool, new_id())
    assert logs.read_all(pool, header.map_id).records == {}


def test_blocks_are_counted_in_memory_and_out_of_it(pool):
    disk = make_disk(pool, 5 << 20)
    for offset in (0, 4 << 20):
        disk.write(offset, b"x" * 700)
    disk.close()
    block_map = load_live_map(pool, disk.spec.map_id, 5 << 20)
    block_map.load(1)
    block_map.load(2)
    assert [index for index, _ in stored_segments(block_map)] == [0, 1, 2]
    assert owned_blocks(block_map) == {1: 4}
    assert block_map.segments[0] is None, "nothing is kept in memory for that"
    block_map.close()

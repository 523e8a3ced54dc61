# SPDX-License-Identifier: Apache-2.0
"""Block status against maps walked block by block, and the contexts that are offered."""

import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane import status
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.status import CHANGED, NOW_ZERO, Export, describe
from fisk_core.engine import Engine
from tests.disks import frozen, make_pool, make_spec
from tests.engines import TINY

BLOCK = 512


@st.composite
def histories(draw):
    """Sizes in bytes, and the changes of each of up to four periods, one on top of the other."""
    size = draw(st.sampled_from([BLOCK * 40, BLOCK * 40 - 100, BLOCK * 9]))
    change = st.tuples(st.integers(0, 39), st.integers(1, 9), st.booleans())
    return size, draw(st.lists(st.lists(change, max_size=5), min_size=1, max_size=4))


def blocks_of(size):
    return -(-size // BLOCK)


def expand(extents):
    """Give the flags byte by byte, in blocks where they are whole."""
    return [flags for length, flags in extents for _ in range(length)]


@given(histories(), st.data())
@settings(max_examples=80, deadline=None)
def test_allocation_and_depth(tmp_path_factory, history, data):
    size, periods = history
    pool = make_pool(tmp_path_factory.mktemp("status") / "pool")
    owner, base = [None] * blocks_of(size), None
    for number, changes in enumerate(periods):
        spec = make_spec(pool, size, base=base)
        with Disk.open(pool, spec) as disk:
            for first, count, written in changes:
                if first * BLOCK < size:
                    length = min(count * BLOCK, size - first * BLOCK)
                    (
                        disk.write(first * BLOCK, b"x" * length)
                        if written
                        else disk.trim(first * BLOCK, length)
                    )
                    owner[first : first + count] = [number if written else None] * len(
                        owner[first : first + count]
                    )
        base = spec.map_id
    with Disk.open(pool, spec) as disk:
        export = Export(disk, "name")
        offset = data.draw(st.integers(0, size - 1))
        length = data.draw(st.integers(1, size - offset))
        where = range(offset, offset + length)
        wanted = {
            p.CONTEXT_ALLOCATION: [0 if owner[at // BLOCK] is not None else 3 for at in where],
            p.CONTEXT_DEPTH: [
                0 if owner[at // BLOCK] is None else len(periods) - owner[at // BLOCK] for at in where
            ],
        }
        for name, flags in wanted.items():
            found = describe(export, name, offset, length, False)
            assert expand(found) == flags
            assert all(one[1] != other[1] for one, other in pairwise(found)), "joined"
            assert describe(export, name, offset, length, True) == found[:1]


def test_what_an_export_says_of_itself(tmp_path):
    pool = make_pool(tmp_path / "pool")
    spec = make_spec(pool, 12345)
    with Disk.open(pool, spec) as disk:
        export = Export(disk, "name", False)
        assert (export.name, export.listed, export.size, export.block_size) == ("name", False, 12345, BLOCK)
        assert export.description == "Fisk test, live"
        assert Export(disk, "name").listed
        live = export.flags()
    with Disk.open(pool, frozen(spec)) as disk:
        export = Export(disk, "name")
        assert export.description == "Fisk test, frozen"
        always = p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_FLUSH | p.TFLAG_CAN_MULTI_CONN | p.TFLAG_SEND_CACHE
        assert export.flags() == always | p.TFLAG_READ_ONLY
    changes = p.TFLAG_SEND_FUA | p.TFLAG_SEND_TRIM | p.TFLAG_SEND_WRITE_ZEROES | p.TFLAG_SEND_FAST_ZERO
    assert live == always | changes


@pytest.fixture
def engine_with(tmp_path):
    with Engine.open(tmp_path) as engine:
        engine.create("disk", 40 * BLOCK, **TINY)
        with engine.open_disk("disk", writable=True) as disk:
            disk.write(0, b"a" * BLOCK * 10)
        engine.snapshot("disk", "before")
        with engine.open_disk("disk", writable=True) as disk:
            disk.write(4 * BLOCK, b"b" * BLOCK * 2)
            disk.trim(8 * BLOCK, BLOCK)
            disk.write(20 * BLOCK, b"c" * BLOCK)
        engine.resize("disk", 50 * BLOCK)
        with engine.open_disk("disk", writable=True) as disk:
            disk.write(45 * BLOCK, b"d" * BLOCK)
        engine.settle()
        yield engine


def test_which_contexts_there_are(engine_with):
    before = engine_with.get("before")
    diff = p.CONTEXT_DIFF + before.id
    with engine_with.open_disk("disk") as disk:
        export = Export(disk, "name")
        both = [p.CONTEXT_ALLOCATION, p.CONTEXT_DEPTH]
        assert [export.contexts(query) for query in ("", "base:", "qemu:", *both)] == [
            both,
            both[:1],
            both[1:],
            both[:1],
            both[1:],
        ]
        for query in ("bas", "base", "base:no", "qemu:allocation", "fisk:", "x", ":"):
            assert export.contexts(query) == []
        for query in (p.CONTEXT_DIFF, p.CONTEXT_DIFF + "x", p.CONTEXT_DIFF + engine_with.get("disk").id):
            assert export.contexts(query) == [], "nothing that can be compared with"
        assert export.contexts(diff) == export.contexts(diff) == [diff]
        engine_with.snapshot("disk", "again")
        engine_with.settle()
        other = p.CONTEXT_DIFF + engine_with.get("again").id
        assert export.contexts(other) == [other]
        assert [export.context_id(name) for name in (*both, diff, other)] == [1, 2, 3, 4]
        engine_with.create("coarse", 50 * BLOCK)
        engine_with.snapshot("coarse", "stone")
        engine_with.settle()
        assert export.contexts(p.CONTEXT_DIFF + engine_with.get("stone").id) == [], "of other geometry"


def test_only_with_relatives(engine_with, monkeypatch):
    """Where a stranger's Fisk has data is nobody's business; an empty one is the beginning of all."""
    for name, content in (("stranger", b"s" * BLOCK), ("empty", b"")):
        engine_with.create(name, 40 * BLOCK, **TINY)
        with engine_with.open_disk(name, writable=True) as disk:
            disk.write(0, content)
        engine_with.snapshot(name, f"{name}.1")
    engine_with.settle()
    stranger, empty, before = (
        p.CONTEXT_DIFF + engine_with.get(name).id for name in ("stranger.1", "empty.1", "before")
    )
    with engine_with.open_disk("disk") as disk:
        export = Export(disk, "name")
        before_asking = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            assert export.contexts(stranger) == []
        assert len(os.listdir("/proc/self/fd")) == before_asking
        assert export.contexts(empty) == [empty]
        monkeypatch.setattr(status, "MAX_COMPARED", 1)
        assert export.contexts(before) == [], "one is enough"
    with engine_with.open_disk("empty") as disk:
        assert Export(disk, "name").contexts(empty) == [empty]


def test_what_changed_since_another(engine_with):
    name = p.CONTEXT_DIFF + engine_with.get("before").id
    changed = {4: CHANGED, 5: CHANGED, 8: CHANGED | NOW_ZERO, 20: CHANGED, 45: CHANGED}
    with engine_with.open_disk("disk") as disk:
        export = Export(disk, "name")
        assert export.contexts(name) == [name]
        for offset, length in (
            (0, 50 * BLOCK),
            (700, 9 * BLOCK),
            (39 * BLOCK, 7 * BLOCK),
            (45 * BLOCK + 1, 1),
        ):
            extents = describe(export, name, offset, length, False)
            assert all(count for count, _ in extents)
            found = expand(extents)
            assert found == [changed.get(at // BLOCK, 0) for at in range(offset, offset + length)]
    engine_with.snapshot("disk", "after")
    engine_with.settle()
    with engine_with.open_disk("before") as disk:
        back = p.CONTEXT_DIFF + engine_with.get("after").id
        export = Export(disk, "name")
        assert export.contexts(back) == [back]
        found = expand(describe(export, back, 0, 40 * BLOCK, False))
        wanted = {4: CHANGED, 5: CHANGED, 8: CHANGED, 20: CHANGED | NOW_ZERO}
        assert found == [wanted.get(at // BLOCK, 0) for at in range(40 * BLOCK)]


def test_a_reply_has_so_many_extents_and_each_so_many_bytes(tmp_path, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    with Disk.open(pool, make_spec(pool, 40 * BLOCK)) as disk:
        for block in range(0, 40, 2):
            disk.write(block * BLOCK, b"x" * BLOCK)
        export = Export(disk, "name")
        monkeypatch.setattr(status, "MAX_EXTENTS", 7)
        found = describe(export, p.CONTEXT_ALLOCATION, 0, 40 * BLOCK, False)
        assert found == [(BLOCK, 0), (BLOCK, 3)] * 3 + [(BLOCK, 0)]
    most = status.MAX_LENGTH
    assert most == 2**32 - 1
    assert status._joined([(most - 5, 1), (5, 1), (1, 1)], 9) == [(most, 1), (1, 1)]
    assert status._joined([], 9) == []

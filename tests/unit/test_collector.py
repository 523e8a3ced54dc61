# SPDX-License-Identifier: Apache-2.0
"""Marking, collecting and usage against an oracle that walks every block of every Fisk.

On random lineages: nothing a Fisk points to is ever punched, nothing dead is kept after one quiet sweep,
and usage says what counting says.
"""

import random
from collections import defaultdict

import numpy as np
import pytest

from fisk_core.blockmap import SEGMENT_PAGES, Geometry, load_map
from fisk_core.engine import Engine
from fisk_core.pools.base import Kind
from fisk_core.services.marking import blocks_per_segment, has_data, mark, runs
from tests.disks import TINY, make_disk, make_pool
from tests.engines import read

BLOCK = 4096  # what a file system gives back
SIZE = 1 << 20
PAGES = {"block_size": BLOCK, "page_size": 4 * BLOCK}


class History:
    """Random verbs on an engine, and what every Fisk must hold."""

    def __init__(self, engine, seed):
        self.engine, self.chance, self.counter = engine, random.Random(seed), 0
        self.model = {}
        self.live = set()
        self.create()

    def name(self):
        self.counter += 1
        return f"f{self.counter}"

    def create(self):
        name = self.name()
        self.engine.create(name, SIZE, **PAGES)
        self.model[name] = bytearray(SIZE)
        self.live.add(name)

    def write(self):
        name = self.chance.choice(sorted(self.live))
        with self.engine.open_disk(name, writable=True) as disk:
            for _ in range(12):
                blocks = self.chance.randrange(1, 9)
                offset = self.chance.randrange(SIZE // BLOCK - blocks) * BLOCK
                length = blocks * BLOCK
                if self.chance.random() < 0.25:
                    disk.trim(offset, length)
                    data = bytes(length)
                else:
                    data = self.chance.randbytes(8) * (length // 8)
                    disk.write(offset, data)
                self.model[name][offset : offset + length] = data

    def snapshot(self):
        name, new = self.chance.choice(sorted(self.live)), self.name()
        self.engine.snapshot(name, new)
        self.model[new] = bytearray(self.model[name])

    def clone(self):
        name, new = self.chance.choice(sorted(self.model)), self.name()
        self.engine.clone(name, new)
        self.model[new] = bytearray(self.model[name])
        self.live.add(new)

    def delete(self):
        name = self.chance.choice(sorted(self.model))
        if self.live - {name}:
            self.engine.delete(name)
            self.live.discard(name)
            del self.model[name]

    def settle(self):
        self.engine.settle()

    def step(self):
        verbs = [self.write] * 4 + [self.snapshot, self.clone, self.delete, self.settle, self.create]
        self.chance.choice(verbs)()

    def check(self):
        for name, content in self.model.items():
            assert read(self.engine, name, 0, SIZE) == content, name


def reachable(engine):
    """layer → blocks that some Fisk's map points to, found by looking at each block of each Fisk."""
    found = defaultdict(set)
    for fisk in engine.list():
        with engine.open_disk(fisk.name) as disk:
            for block in range(SIZE // BLOCK):
                [(_, _, alias)] = disk.status(block * BLOCK, BLOCK)
                if layer := disk.map.layers[alias]:
                    found[layer].add(block)
    return found


def stored(engine):
    """layer → blocks that take space."""
    pool, found = engine.open_pool("default"), {}
    for layer in pool.list_devices(Kind.LAYER):
        with pool.open_device(Kind.LAYER, layer, writable=False) as device:
            found[layer] = {
                block
                for offset, length in device.data_extents(0, device.size)
                for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))
            }
    return found


@pytest.mark.parametrize("seed", range(10))
def test_random_lineages(tmp_path, seed):
    with Engine.open(tmp_path) as engine:
        history = History(engine, seed)
        for _ in range(4):
            for _ in range(12):
                history.step()
            engine.settle()
            expected = engine.collect(dry_run=True)
            before = stored(engine)
            assert stored(engine) == before, "a dry run changes nothing"
            report = engine.collect()
            history.check()
            alive, kept = reachable(engine), stored(engine)
            for layer, blocks in kept.items():
                live_layer = any(fisk.map_id == layer and not fisk.frozen for fisk in engine.list())
                if not live_layer:
                    assert blocks <= alive[layer], "dead blocks are kept after a quiet sweep"
            assert report.skipped == {}
            assert expected.layers == report.layers
            freed = sum(map(len, before.values())) - sum(map(len, kept.values()))
            assert report.reclaimed == freed * BLOCK
            assert engine.collect().reclaimed == 0
            usage_is_what_counting_says(engine)
        assert engine.check().ok


def usage_is_what_counting_says(engine):
    pointed = {}
    for fisk in engine.list():
        with engine.open_disk(fisk.name) as disk:
            pointed[fisk.name] = {
                (disk.map.layers[owner], block)
                for first, count, owner in disk.map.runs(0, SIZE // BLOCK)
                if owner
                for block in range(first, first + count)
            }
    for name, mine in pointed.items():
        others = set().union(*(blocks for other, blocks in pointed.items() if other != name))
        usage = engine.usage(name)
        assert usage.provisioned == SIZE
        assert usage.referenced == len(mine) * BLOCK
        assert usage.exclusive == len(mine - others) * BLOCK


def test_a_damaged_map_keeps_what_it_may_point_to(tmp_path):
    with Engine.open(tmp_path) as engine:
        engine.create("a", SIZE, **PAGES)
        for byte in b"12":
            with engine.open_disk("a", writable=True) as disk:
                disk.write(0, bytes([byte]) * 10 * BLOCK)
            engine.snapshot("a", f"s{byte}")
        engine.settle()
        engine.clone("s49", "keeper")
        engine.delete("s49")
        engine.settle()
        path = next((tmp_path / "pools" / "default" / "blobs" / "maps").rglob(engine.get("s50").map_id))
        good = path.read_bytes()
        path.write_bytes(good[:-3] + b"xyz")
        before = stored(engine)
        engine.collect()
        path.write_bytes(good)
        assert read(engine, "keeper", 0, SIZE)[: 10 * BLOCK] == b"1" * 10 * BLOCK
        assert {layer: blocks for layer, blocks in stored(engine).items() if blocks} == {
            layer: blocks for layer, blocks in before.items() if blocks
        }


# Marking alone


def test_marks_are_what_maps_point_to(tmp_path):
    pool = make_pool(tmp_path / "pool")
    size = 2 * SEGMENT_PAGES * TINY.page_size
    opened, model = [], defaultdict(set)
    chance = random.Random(9)
    for _ in range(3):
        disk = make_disk(pool, size)
        for _ in range(20):
            block = chance.choice([0, SEGMENT_PAGES * 4 - 5, chance.randrange(size // 512 - 8)])
            disk.write(block * 512, b"x" * 512 * 7)
            model[disk.spec.map_id] |= set(range(block, block + 7))
        disk.close()
        opened.append(load_map(pool, disk.spec.map_id, size))
    layers = [*list(model), "no such layer"]
    per_segment = blocks_per_segment(TINY)
    for index in range(2):
        marks = mark(opened, layers, index)
        assert marks.shape == (4, per_segment)
        for layer, row in zip(layers, marks, strict=True):
            wanted = {block - index * per_segment for block in model.get(layer, ())}
            assert set(np.flatnonzero(row)) == {block for block in wanted if 0 <= block < per_segment}
    assert not has_data(opened[0], 5)
    assert not mark(opened, layers, 5).any()
    for each in opened:
        each.close()


@pytest.mark.parametrize("seed", range(5))
def test_runs(seed):
    selected = np.array([random.Random(seed).random() < 0.5 for _ in range(50)])
    found = np.zeros(50, bool)
    for first, count in runs(selected):
        assert count > 0
        assert not found[max(0, first - 1) : first + count + 1].any(), "the longest runs"
        found[first : first + count] = True
    assert (found == selected).all()


def test_geometry_of_a_segment():
    assert blocks_per_segment(Geometry(4096, 4 << 20)) == 1024 * 1024

# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import Cancelled, Corrupt, NotFound
from tests.engines import BLOCK, MIB, TINY, paths_in, read, write

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def engine(tmp_path):
    with Engine.open(tmp_path) as opened:
        opened.create_pool("summed", options={"checksum": "crc32"})
        for pool in ("summed", "default"):
            opened.create(pool, MIB, pool=pool, **TINY)
            write(opened, pool, 0, CONTENT)
            opened.snapshot(pool, f"{pool}-s")
            write(opened, pool, BLOCK, b"later" * 100)
        opened.settle()
        yield opened


def layer_path(engine, ref):
    return engine.route(ref, 0).path


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_all_is_well(engine):
    report = engine.scrub()
    assert report.ok
    assert (report.maps, report.layers) == (4, 4)
    assert report.bytes_read == 2 * len(CONTENT) + 2 * BLOCK
    assert report.bytes_compared == len(CONTENT) + BLOCK


def test_a_flipped_bit_is_found_where_checksums_are_kept(engine):
    flip(layer_path(engine, "summed-s"), 5 * BLOCK + 3)
    report = engine.scrub()
    assert [each.kind for each in report.problems] == ["data"]
    assert f"byte {5 * BLOCK} " in report.problems[0].message


def test_without_checksums_only_what_cannot_be_read_is_found(engine):
    flip(layer_path(engine, "default-s"), 3)
    assert engine.scrub("default-s").ok


def test_a_damaged_map_is_found_and_the_rest_read(engine):
    pool = engine.home.pool("default")
    path = pool / "blobs" / "maps" / engine.get("default-s").map_id
    flip(path, path.stat().st_size - 1)
    report = engine.scrub()
    assert [(each.kind, each.subject) for each in report.problems] == [
        ("map", "default"),
        ("map", "default-s"),
    ]
    assert report.bytes_compared == len(CONTENT) + BLOCK


def test_a_missing_layer_is_found(engine):
    os.unlink(layer_path(engine, "summed-s"))
    assert "layer" in {each.kind for each in engine.scrub("summed-s").problems}


def test_damaged_checksums_are_found(engine):
    pool = engine.home.pool("summed")
    name = engine.get("summed-s").map_id
    flip(pool / "sums" / name[:2] / name, 20)
    with pytest.raises(Corrupt, match="checksums of layer"):
        read(engine, "summed-s", 0, 1)
    assert [each.kind for each in engine.scrub("summed-s").problems] == ["layer"]


def test_blocks_nobody_points_to_may_be_gone(engine):
    """What the collector took is no damage."""
    engine.clone("summed-s", "clone")
    with engine.open_disk("clone", writable=True) as disk:
        disk.trim(4 * BLOCK, 4 * BLOCK)
    engine.snapshot("clone", "kept")
    engine.settle()
    path = layer_path(engine, "kept")
    engine.delete("summed", "summed-s", "clone")
    with open(path, "r+b") as file:
        file.seek(4 * BLOCK)
        file.write(bytes(4 * BLOCK))
    report = engine.scrub("kept")
    assert report.ok
    assert report.bytes_compared == len(CONTENT) - 4 * BLOCK
    assert read(engine, "kept", 8 * BLOCK, 4) == CONTENT[8 * BLOCK : 8 * BLOCK + 4]


def test_only_what_is_asked_for_is_read(engine):
    assert engine.scrub("summed-s").layers == 1
    with pytest.raises(NotFound):
        engine.scrub("nosuch")


def test_progress_counts_to_the_end_and_may_cancel(engine):
    seen = []
    engine.scrub(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == 2 * len(CONTENT) + 2 * BLOCK

    def stop(_done, _total):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.scrub(progress=stop)


def test_checksums_go_with_their_layer(engine):
    pool = engine.home.pool("summed")
    kept = sorted([engine.get("summed-s").map_id, engine.get("summed").map_id])
    assert sorted(paths_in(pool, "sums")) == kept
    engine.delete("summed", "summed-s")
    assert paths_in(pool, "sums") == []

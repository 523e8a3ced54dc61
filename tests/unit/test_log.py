# SPDX-License-Identifier: Apache-2.0
"""The map log: what a crash may leave is told apart from damage, and every flipped bit is noticed."""

import random

import numpy as np
import pytest

from fisk_core.blockmap import Geometry, LogHeader, LogWriter, create_log
from fisk_core.blockmap import log as logs
from fisk_core.blockmap.ends import forget
from fisk_core.errors import Corrupt, Unsupported
from fisk_core.pools import Kind
from tests.disks import TINY, make_pool, new_id


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def written(pool):
    """A log with three batches; gives its id and where each ends."""
    map_id, ends = new_id(), []
    create_log(pool, LogHeader(map_id, None, new_id(), 1 << 20, TINY))
    writer = LogWriter(pool, map_id)
    for batch in range(3):
        # 200 pages of masks take several sectors
        changes = [(page, bytes([0, 0, 1, 0, batch % 2, 0, 0, 0])) for page in range(batch, 200 + batch)]
        writer.append(logs.encode_changes(changes, 1, TINY))
        ends.append(writer._end)
    writer.close()
    return map_id, ends


def path_of(pool, map_id):
    return next(path for path in (pool_path(pool) / "logs").rglob(map_id))


def pool_path(pool):
    from pathlib import Path

    return Path(pool.options["path"])


def read(pool, map_id):
    with pool.open_device(Kind.LOG, map_id, writable=False) as device:
        return logs.read(device, map_id)


def test_reads_what_was_appended(pool, written):
    contents = read(pool, written[0])
    assert contents.sequence == 3
    assert contents.sectors * logs.SECTOR == written[1][-1]
    assert sorted(contents.records) == list(range(202))
    assert not contents.torn


def test_the_blocks_a_period_owns(pool):
    map_id, geometry = new_id(), Geometry(512, 16 * 512)
    create_log(pool, LogHeader(map_id, None, new_id(), 1 << 20, geometry))
    owners = np.full(16, 7, np.uint16)
    owners[[0, 9, 15]] = 1
    with_hole = owners.copy()
    with_hole[3] = 0
    writer = LogWriter(pool, map_id)
    changes = [(0, 1), (1, 0), (2, owners.tobytes()), (3, with_hole.tobytes())]
    writer.append(logs.encode_changes(changes, 1, geometry))
    writer.close()
    contents = read(pool, map_id)
    assert list(contents.owned(0)) == [(0, 16)]
    assert list(contents.owned(1)) == list(contents.owned(4)) == []
    assert list(contents.owned(2)) == [(32, 1), (41, 1), (47, 1)]
    assert list(contents.owned(3)) == [(48, 1), (57, 1), (63, 1)]


def test_every_flipped_bit_is_reported(pool, written):
    map_id, _ = written
    path = path_of(pool, map_id)
    good = path.read_bytes()
    chance = random.Random(7)
    for _ in range(400):
        position, bit = chance.randrange(len(good)), 1 << chance.randrange(8)
        path.write_bytes(good[:position] + bytes([good[position] ^ bit]) + good[position + 1 :])
        with pytest.raises((Corrupt, Unsupported)):
            read(pool, map_id)
    path.write_bytes(good)
    read(pool, map_id)


def test_any_sectors_of_the_last_batch_may_be_missing(pool, written):
    map_id, ends = written
    path = path_of(pool, map_id)
    good = path.read_bytes()
    chance = random.Random(3)
    sectors = range(ends[1] // logs.SECTOR, ends[2] // logs.SECTOR)
    for _ in range(100):
        lost = chance.sample(list(sectors), chance.randrange(1, len(sectors) + 1))
        torn = bytearray(good)
        for number in lost:
            torn[number * logs.SECTOR : (number + 1) * logs.SECTOR] = bytes(logs.SECTOR)
        path.write_bytes(torn)
        contents = read(pool, map_id)
        assert contents.sequence == 2
        assert contents.sectors * logs.SECTOR == ends[1]


def test_a_missing_sector_before_the_last_batch_is_damage(pool, written):
    map_id, ends = written
    path = path_of(pool, map_id)
    good = bytearray(path.read_bytes())
    good[ends[0] + 512 : ends[0] + 1024] = bytes(512)
    path.write_bytes(good)
    with pytest.raises(Corrupt):
        read(pool, map_id)


def test_a_torn_tail_is_cut_before_the_next_batch(pool, written):
    map_id, ends = written
    path = path_of(pool, map_id)
    good = path.read_bytes()
    path.write_bytes(good[: ends[1]] + bytes(512) + good[ends[1] + 512 :])
    with pytest.raises(Corrupt, match="ends behind batch 2; when it was closed it had 3"):
        LogWriter(pool, map_id)
    forget(pool, map_id)  # now it is as a crash leaves it, before it was closed
    writer = LogWriter(pool, map_id)
    writer.append(logs.encode_changes([(7, 1)], 1, TINY))
    writer.close()
    contents = read(pool, map_id)
    assert contents.sequence == 3
    assert contents.records[7] == (logs.LIVE, b"")
    assert contents.records[201 - 1][0] == logs.MASK_BOTH


def test_compaction_keeps_the_last_record_of_each_page(pool, monkeypatch):
    monkeypatch.setattr(logs, "COMPACT_AT", 4096)
    map_id = new_id()
    create_log(pool, LogHeader(map_id, None, new_id(), 1 << 20, TINY))
    writer = LogWriter(pool, map_id)
    chance = random.Random(5)
    expected = {}
    for _ in range(300):
        page, kind = chance.randrange(60), chance.choice([0, 1, "mask"])
        owners = bytes([1, 0, 0, 0, 1, 0, 5, 0]) if kind == "mask" else kind
        writer.append(logs.encode_changes([(page, owners)], 1, TINY))
        expected[page] = logs.MASK_BOTH if kind == "mask" else (logs.LIVE if kind else logs.HOLE)
    writer.close()
    contents = read(pool, map_id)
    assert {page: record[0] for page, record in contents.records.items()} == expected
    assert contents.sequence < 300, "it was never compacted"


def test_reserved_space_is_given_back_on_close(pool):
    map_id = new_id()
    create_log(pool, LogHeader(map_id, None, new_id(), 1 << 20, TINY))
    writer = LogWriter(pool, map_id)
    writer.reserve(1000)
    assert pool.usage(Kind.LOG, map_id) > 100_000
    writer.append(logs.encode_changes([(1, 1)], 1, TINY))
    writer.close()
    assert pool.usage(Kind.LOG, map_id) <= 4096
    assert read(pool, map_id).sequence == 1


def test_a_log_of_another_map_is_refused(pool):
    one, other = new_id(), new_id()
    for map_id in (one, other):
        create_log(pool, LogHeader(map_id, None, new_id(), 0, Geometry(4096, 4 << 20)))
    path_of(pool, one).write_bytes(path_of(pool, other).read_bytes())
    with pytest.raises(Corrupt, match="says it is the log of"):
        read(pool, one)

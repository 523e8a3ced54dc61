# SPDX-License-Identifier: Apache-2.0
"""Stored maps that are newer, too large, or contradict themselves under good checksums; races with blobs."""

import zlib

import pytest
import zstandard

from fisk_core.blockmap import LogHeader, blob, consolidate, create_log, diff, load_map, log, stored
from fisk_core.blockmap import stored_segments as segments_of
from fisk_core.blockmap.blob import CRC, ENTRY, HEADER
from fisk_core.errors import Corrupt, LimitExceeded, NotFound, Unsupported
from fisk_core.pools import Kind
from tests.disks import TINY, make_disk, make_pool, make_spec, new_id

SIZE = 5 << 20


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


def encoded(pool, segment=b"", version=1, incompatible=0):
    """Store a blob of one segment with good checksums, whatever it says; gives its id."""
    map_id = new_id()
    [head, *_] = blob.encode(map_id, 1 << 20, TINY, [None, new_id()], iter([[0] * 1024]))
    fields = list(HEADER.unpack_from(head))
    fields[1], fields[3] = version, incompatible
    table = head[HEADER.size : HEADER.size + 16]
    frame = zstandard.ZstdCompressor().compress(segment) if segment else b""
    start = HEADER.size + 16 + ENTRY.size + CRC.size
    fields[-1] = start + len(frame)
    head = HEADER.pack(*fields) + table + ENTRY.pack(start if frame else 0, len(frame), zlib.crc32(frame))
    pool.put_blob(blob.name_of(map_id), [head, CRC.pack(zlib.crc32(head)), frame])
    return map_id


@pytest.mark.parametrize(("version", "incompatible"), [(2, 0), (1, 1), (1, 1 << 31)])
def test_a_map_of_a_newer_fisk_is_refused(pool, version, incompatible):
    with pytest.raises(Unsupported):
        load_map(pool, encoded(pool, version=version, incompatible=incompatible), 1 << 20)


def test_a_map_that_names_a_layer_it_does_not_list(pool):
    wrong = blob.pack_segment([2] + [0] * 1023)
    with pytest.raises(Corrupt, match="does not list"):
        stored.verify_blob(pool, encoded(pool, wrong))


def test_a_map_under_the_name_of_another(pool):
    one, other = encoded(pool), encoded(pool)
    pool.put_blob(blob.name_of(one), [pool.get_blob(blob.name_of(other))])
    with pytest.raises(Corrupt, match=f"maps/{one} says it is the map {other}"):
        load_map(pool, one, 1 << 20)


@pytest.mark.parametrize("data", [b"short", bytes(2048) + b"x", b"\xff\xff" + bytes(2046)])
def test_segments_of_another_length(pool, data):
    with pytest.raises(Corrupt):
        stored.verify_blob(pool, encoded(pool, data))


def test_more_layers_than_a_map_can_name(pool):
    with pytest.raises(LimitExceeded):
        list(blob.encode(new_id(), 512, TINY, [None, *["x"] * (blob.MAX_ALIAS + 1)], iter(())))


def test_a_map_read_behind_its_end_is_holes(pool):
    block_map = load_map(pool, encoded(pool), 8 << 20)
    assert list(block_map.runs(0, 8)) == [(0, 8, 0)]
    assert block_map.source.base.segment(3) == [0] * 1024
    assert list(segments_of(block_map)) == []
    block_map.close()


# Logs


def log_of(pool, *payloads, header=None):
    """Store a log of these batches with good checksums; gives its id."""
    map_id = new_id()
    create_log(pool, LogHeader(map_id, None, new_id(), SIZE, TINY))
    sectors = [log.frame(header or LogHeader(map_id, None, new_id(), SIZE, TINY).pack(), 0, 0)]
    at = 1
    for sequence, payload in payloads:
        sectors.append(log.frame(log.BATCH.pack(len(payload)) + payload, at, sequence))
        at += len(sectors[-1]) // log.SECTOR
    pool.replace_log(map_id, sectors)
    return map_id


RUN = log.RECORD.pack(log.LIVE, 3, 2)
LONG = RUN * 200


@pytest.mark.parametrize(
    "batches",
    [[(1, log.RECORD.pack(4, 0, 1))], [(1, RUN + RUN[:5])], [(1, RUN), (3, RUN)], [(2, RUN)]],
    ids=["unknown record", "half a record", "a batch is missing", "the first is missing"],
)
def test_logs_that_contradict_themselves(pool, batches):
    map_id = log_of(pool, *batches)
    with pytest.raises(Corrupt, match=map_id):
        load_map(pool, map_id, SIZE)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_batch_behind_a_torn_one(pool, lost):
    """A batch is written only after the one before it is durable: this cannot be a torn tail."""
    map_id = log_of(pool, (1, LONG), (2, RUN))
    with pool.open_device(Kind.LOG, map_id, writable=True) as device:
        device.pwritev([bytes(log.SECTOR)], (1 + lost) * log.SECTOR)
    with pytest.raises(Corrupt):
        load_map(pool, map_id, SIZE)


@pytest.mark.parametrize(("field", "error"), [(0, Corrupt), (8, Unsupported)])
def test_headers_of_something_else(pool, field, error):
    header = bytearray(LogHeader(new_id(), None, new_id(), SIZE, TINY).pack())
    header[field] ^= 0x40
    with pytest.raises(error):
        load_map(pool, log_of(pool, header=bytes(header)), SIZE)


@pytest.mark.parametrize("content", [b"", bytes(1024)])
def test_a_log_without_a_header(pool, content):
    map_id = log_of(pool)
    pool.replace_log(map_id, [content] if content else [])
    with pytest.raises(Corrupt, match="no header"):
        load_map(pool, map_id, SIZE)


def test_records_of_a_page_that_is_all_of_another_layer(pool):
    """Nothing to record: neither live nor a hole."""
    assert list(log.encode_changes([(1, 3), (2, 7)], 7, TINY)) == [log.RECORD.pack(log.LIVE, 2, 1)]


# Chains


def test_a_map_that_is_consolidated_while_it_is_opened(pool, monkeypatch):
    spec = make_spec(pool, SIZE)
    top = make_spec(pool, SIZE, base=spec.map_id)
    real, done = pool.open_device, []

    def open_device(kind, name, writable):
        if kind is Kind.LOG and name == spec.map_id and not done:
            done.append(name)
            consolidate(pool, spec.map_id, SIZE)
            pool.delete_device(Kind.LOG, spec.map_id)
        return real(kind, name, writable=writable)

    monkeypatch.setattr(pool, "open_device", open_device)
    block_map = load_map(pool, top.map_id, SIZE)
    assert done
    assert len(block_map.layers) >= 2
    block_map.close()


def test_a_chain_whose_base_is_gone(pool):
    top = make_spec(pool, SIZE, base=new_id())
    for map_id in (top.map_id, new_id()):
        with pytest.raises(NotFound):
            load_map(pool, map_id, SIZE)


def test_changes_that_continue_across_segments_are_one_extent(pool):
    old, new = make_spec(pool, SIZE), make_disk(pool, SIZE)
    for offset in ((2 << 20) - 4096, 2 << 20):
        new.write(offset, b"x" * 4096)
    new.close()
    one, two = load_map(pool, old.map_id, SIZE), load_map(pool, new.spec.map_id, SIZE)
    [extent] = diff(one, two)
    assert (extent.offset, extent.length) == ((2 << 20) - 4096, 8192)
    one.close()
    two.close()

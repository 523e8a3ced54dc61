# SPDX-License-Identifier: Apache-2.0
"""The bytes of a log as the manual describes them (design/formats), by a reader that shares no code with the
engine's; and what the writer promises about space."""

import os
import struct
import uuid
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.blockmap import Geometry, LogHeader, LogWriter, create_log, load_live_map
from fisk_core.blockmap import log as logs
from fisk_core.blockmap.source import Empty, to_page
from fisk_core.errors import Corrupt, PoolError
from fisk_core.pools import Kind
from tests.disks import TINY, make_pool, new_id

SECTOR = 512


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


def begin(pool, geometry=TINY, base=None, size=1 << 20):
    header = LogHeader(new_id(), base, new_id(), size, geometry)
    create_log(pool, header)
    return header


def path_of(pool, map_id):
    return pool.locate(Kind.LOG, map_id)


# A reader from the manual


def sectors(data):
    """Give (sequence number, payload) of each sector up to the zeros behind the end."""
    data = data.rstrip(b"\0")
    data = data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
    for number in range(len(data) // SECTOR):
        sector = data[number * SECTOR : (number + 1) * SECTOR]
        crc, sequence = struct.unpack_from("<II", sector)
        assert crc == zlib.crc32(sector[4:], number)
        yield sequence, sector[8:]


def batches(data):
    """Give the records of each batch; every batch fills whole sectors, numbered from 1."""
    (zero, _), *rest = sectors(data)
    assert zero == 0
    found = {}
    for sequence, payload in rest:
        found.setdefault(sequence, bytearray()).extend(payload)
    assert list(found) == list(range(1, len(found) + 1))
    for payload in found.values():
        [length] = struct.unpack_from("<I", payload)
        assert len(payload) - 504 < 4 + length <= len(payload)
        assert not any(payload[4 + length :])
        yield bytes(payload[4 : 4 + length])


def apply(records, state, live, per_page):
    """Change ``state``, page → list of owners, as the records say; gives the kinds and runs seen."""
    at, seen = 0, []
    width = -(-per_page // 8)
    while at < len(records):
        kind, first, count = struct.unpack_from("<B3xII", records, at)
        at += 12
        seen.append((kind, first, count))
        if kind < 2:
            for page in range(first, first + count):
                state[page] = [live * kind] * per_page
            continue
        assert count == 1
        masks = [
            int.from_bytes(records[at + width * n : at + width * (n + 1)], "little") for n in range(kind - 1)
        ]
        at += width * (kind - 1)
        for block in range(per_page):
            if masks[0] >> block & 1:
                state[first][block] = live
            elif kind == 3 and masks[1] >> block & 1:
                state[first][block] = 0
    assert at == len(records)
    return seen


# Histories


PER_PAGE = (2, 4, 16)
LIVE = 3
PAGES = 12


@st.composite
def histories(draw):
    """Blocks per page, then batches of page → for each block LIVE, 0, or None where it stays whose it was."""
    per_page = draw(st.sampled_from(PER_PAGE))
    whole = st.sampled_from([0, LIVE, LIVE]).map(lambda owner: [owner] * per_page)
    mixed = st.lists(st.sampled_from([None, None, 0, LIVE]), min_size=per_page, max_size=per_page)
    batch = st.dictionaries(st.integers(0, PAGES - 1), st.one_of(whole, mixed), max_size=PAGES)
    return per_page, draw(st.lists(batch, max_size=6))


def packed(owners):
    return struct.pack(f"<{len(owners)}H", *owners)


class Base(Empty):
    """Pages of two layers in turns, and holes."""

    def __init__(self, geometry):
        self.geometry, self.layers = geometry, [None, new_id(), new_id()]

    def segment(self, index):
        return [1 + page % 2 for page in range(PAGES)] + [0] * (1024 - PAGES)


@given(histories(), st.data())
@settings(max_examples=120, deadline=None)
def test_what_is_written_is_what_the_manual_says(tmp_path_factory, history, data):
    per_page, steps = history
    geometry = Geometry(512, 512 * per_page)
    pool = make_pool(tmp_path_factory.mktemp("log") / "pool")
    header = begin(pool, geometry)
    model, state = ([[owner] * per_page for owner in Base(geometry).segment(0)[:PAGES]] for _ in range(2))
    writer, wanted = LogWriter(pool, header.map_id), []
    for step in steps:
        changes = []
        for page, given_ in sorted(step.items()):
            owners = model[page] = [
                old if new is None else new for old, new in zip(model[page], given_, strict=True)
            ]
            one = len(set(owners)) == 1 and data.draw(st.booleans())
            changes.append((page, owners[0] if one else packed(owners)))
        writer.append(logs.encode_changes(changes, LIVE, geometry))
        wanted.append([list(owners) for owners in model])
    writer.close()
    content = path_of(pool, header.map_id).read_bytes()
    assert len(content) % SECTOR == 0
    found = list(batches(content))
    for records in found:
        seen = apply(records, state, LIVE, per_page)
        runs = [record for record in seen if record[0] < 2]
        for (kind, first, count), following in pairwise(runs):
            assert (kind, first + count) != following[:2], "a run is as long as it can be"
        assert state in wanted
    assert state == model
    with pool.open_device(Kind.LOG, header.map_id, writable=False) as device:
        contents = logs.read(device, header.map_id)
    assert (contents.sequence, contents.sectors, contents.torn) == (len(found), len(content) // SECTOR, False)
    logged = logs.Logged(Base(geometry), contents.header, contents.records)
    assert (logged.live, logged.layers[LIVE:]) == (LIVE, [header.map_id])
    pages = logged.segment(0)
    for page, owners in zip(pages, model, strict=False):
        assert page == owners[0] if isinstance(page, int) else list(page) == owners
        assert isinstance(page, int) == (len(set(owners)) == 1)
    assert pages[PAGES:] == [0] * (1024 - PAGES)


def test_the_header(pool):
    base, size = new_id(), 12345
    header = begin(pool, Geometry(512, 4096), base, size)
    [(sequence, payload)] = sectors(path_of(pool, header.map_id).read_bytes())
    fields = struct.unpack_from("<8sHHIII16s16s16sQII", payload)
    ids = [uuid.UUID(each).bytes for each in (header.map_id, base, header.fisk_id)]
    assert (sequence, fields) == (0, (b"FISKLOG\0", 1, 0, 0, 0, 0, *ids, size, 512, 4096))
    with pool.open_device(Kind.LOG, header.map_id, writable=False) as device:
        assert logs.read(device, header.map_id).header == header
    alone = LogHeader(new_id(), None, new_id(), 0, TINY)
    assert struct.unpack_from("<8sHHIII16s16s16sQII", alone.pack())[7] == bytes(16)
    assert LogHeader.unpack(alone.pack(), "log") == alone


def test_a_period_begins_anew_over_what_a_crash_left(pool):
    header = begin(pool)
    with pool.open_device(Kind.LAYER, header.map_id, writable=True) as layer:
        assert layer.size == 1 << 20
        layer.pwritev([b"stale"], 0)
    create_log(pool, header)
    with pool.open_device(Kind.LAYER, header.map_id, writable=False) as layer:
        assert (layer.size, list(layer.data_extents(0, 1 << 20))) == (1 << 20, [])


def test_rewriting_a_log(pool):
    """Two records of one page become one state; nothing becomes a log that is only a header."""
    header = begin(pool)
    for changes in ([(3, 1), (4, 1), (9, packed([1, 0, 2, 1]))], []):
        logs.rewrite(pool, header, changes, 1)
        state = {9: [2, 2, 2, 2]}
        data = path_of(pool, header.map_id).read_bytes()
        for records in batches(data):
            apply(records, state, 1, 4)
        assert state == ({3: [1] * 4, 4: [1] * 4, 9: [1, 0, 2, 1]} if changes else {9: [2, 2, 2, 2]})
        assert len(data) == (2 if changes else 1) * SECTOR
        writer = LogWriter(pool, header.map_id)
        assert writer.header == header
        writer.close()


# Space


def size_of(pool, header):
    return os.stat(path_of(pool, header.map_id)).st_size


@pytest.mark.parametrize("per_page", [4, 64])
@pytest.mark.parametrize("batches", [0, 3])
@pytest.mark.parametrize("pages", [0, 1, 50, 3000])
def test_what_was_reserved_is_enough_for_any_records(pool, per_page, pages, batches):
    """A full pool refuses the reservation, never the flush after it."""
    header = begin(pool, Geometry(512, 512 * per_page), size=1 << 30)
    writer = LogWriter(pool, header.map_id)
    owners = packed([0, 1] * (per_page // 2))
    for number in range(batches):
        writer.append(logs.encode_changes([(number, owners)], 1, header.geometry))
    writer.reserve(pages)
    reserved = size_of(pool, header)
    assert pool.usage(Kind.LOG, header.map_id) >= reserved
    writer.reserve(pages)
    assert size_of(pool, header) == reserved, "it was enough already"
    changes = [(2 * number, owners) for number in range(pages)]  # the longest records there are
    writer.append(logs.encode_changes(changes, 1, header.geometry))
    assert size_of(pool, header) == reserved
    writer.abandon()
    assert size_of(pool, header) == reserved
    with pool.open_device(Kind.LOG, header.map_id, writable=False) as device:
        assert logs.read(device, header.map_id).records.keys() == {*range(batches), *range(0, 2 * pages, 2)}


def test_space_is_reserved_ahead_and_generously(pool):
    header = begin(pool)
    writer = LogWriter(pool, header.map_id)
    writer.reserve(1)
    once = size_of(pool, header)
    assert once >= logs.RESERVE
    for page in range(200):
        writer.reserve(1)
        writer.append(logs.encode_changes([(page, 1)], 1, TINY))
    assert size_of(pool, header) == once, "a flush asks for no space while there is some"
    writer.close()
    assert size_of(pool, header) == 201 * SECTOR


def test_nothing_to_say_is_no_batch(pool):
    header = begin(pool)
    writer = LogWriter(pool, header.map_id)
    writer.append([])
    writer.append(logs.encode_changes([(1, 2)], 3, TINY))
    writer.close()
    assert size_of(pool, header) == SECTOR


def test_a_log_is_compacted_when_it_has_doubled_and_is_large(pool, monkeypatch):
    monkeypatch.setattr(logs, "COMPACT_AT", 10 * SECTOR)
    header = begin(pool)
    for round_ in range(2):
        writer, compacted = LogWriter(pool, header.map_id), []
        least = max(10 * SECTOR, 2 * writer._end)
        for number in range(60):
            inode, before = os.stat(path_of(pool, header.map_id)).st_ino, writer._end
            writer.reserve(5)
            page = number if round_ else number % 3
            writer.append(logs.encode_changes([(page, 1 if number % 2 else 0)], 1, TINY))
            replaced = os.stat(path_of(pool, header.map_id)).st_ino != inode
            assert replaced == (before + SECTOR > least)
            if replaced:
                compacted.append(number)
                least = max(10 * SECTOR, 2 * writer._end)
                assert writer._end <= before
            assert size_of(pool, header) >= writer._end + 2 * SECTOR, "space stays reserved"
        assert compacted
        writer.close()
    block_map = load_live_map(pool, header.map_id, 1 << 20)
    assert [block_map.page(page) for page in range(61)] == [number % 2 for number in range(60)] + [0]
    block_map.close()


def test_what_was_reserved_stays_so_through_a_compaction(pool, monkeypatch):
    monkeypatch.setattr(logs, "COMPACT_AT", SECTOR)
    monkeypatch.setattr(logs, "RESERVE", SECTOR)
    header = begin(pool, size=1 << 30)
    writer = LogWriter(pool, header.map_id)
    writer.reserve(2001)
    writer.append(logs.encode_changes([(0, 1)], 1, TINY))  # compacts
    reserved = size_of(pool, header)
    monkeypatch.setattr(logs, "COMPACT_AT", 1 << 30)
    writer._compact_at = 1 << 30
    writer.append(logs.encode_changes([(n, packed([0, 1, 0, 1])) for n in range(2000)], 1, TINY))
    assert size_of(pool, header) == reserved
    writer.close()


def test_a_batch_that_could_not_be_made_durable_is_the_last(pool, monkeypatch):
    """And it is taken back: the next writer must not put its own behind one that a power loss takes away."""
    header = begin(pool)
    writer = LogWriter(pool, header.map_id)
    writer.append(logs.encode_changes([(1, 1)], 1, TINY))
    before = path_of(pool, header.map_id).read_bytes()

    def fail(*_):
        raise PoolError("the medium failed")

    with monkeypatch.context() as patch:
        patch.setattr(writer._device, "pwritev", fail)
        with pytest.raises(PoolError, match="the medium failed"):
            writer.append(logs.encode_changes([(2, 1)], 1, TINY))
    assert path_of(pool, header.map_id).read_bytes() == before
    writer.append(logs.encode_changes([(3, 1)], 1, TINY))  # nothing had been written: it goes on
    before = path_of(pool, header.map_id).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(writer._device, "flush", fail)
        with pytest.raises(PoolError, match="the medium failed"):
            writer.append(logs.encode_changes([(4, 1)], 1, TINY))
    with pytest.raises(PoolError, match=f"log {header.map_id} could not be made durable before, and is not"):
        writer.append(logs.encode_changes([(5, 1)], 1, TINY))
    assert path_of(pool, header.map_id).read_bytes() == before
    writer.close()
    with pool.open_device(Kind.LOG, header.map_id, writable=False) as device:
        assert sorted(logs.read(device, header.map_id).records) == [1, 3]


def test_a_torn_log_is_left_to_its_writer(pool):
    """Who only stands by (a successor) neither mends it nor believes it."""
    header = begin(pool)
    writer = LogWriter(pool, header.map_id)
    for number in range(2):
        changes = [(2 * page, packed([0, 1, 0, number])) for page in range(80)]
        writer.append(logs.encode_changes(changes, 1, TINY))
    writer.close()
    whole = path_of(pool, header.map_id).read_bytes()
    half = SECTOR * (1 + (len(whole) // SECTOR - 1) // 2)
    torn = whole[:half] + bytes(SECTOR) + whole[half + SECTOR :]
    path_of(pool, header.map_id).write_bytes(torn)
    pool.delete_blob(f"ends/{header.map_id}")  # as if it had never been closed
    with pytest.raises(Corrupt, match=f"log {header.map_id} has a torn tail"):
        LogWriter(pool, header.map_id, untouched=True)
    assert path_of(pool, header.map_id).read_bytes() == torn
    LogWriter(pool, header.map_id).abandon()
    assert path_of(pool, header.map_id).read_bytes() == whole[:half]
    LogWriter(pool, header.map_id, untouched=True).abandon()


def test_pages_are_one_number_where_they_can_be():
    for owners in ([5] * 4, [0] * 4, [1, 2, 3, 4]):
        page = to_page(logs.np.array(owners, logs.np.uint16))
        assert page == owners[0] if len(set(owners)) == 1 else list(page) == owners

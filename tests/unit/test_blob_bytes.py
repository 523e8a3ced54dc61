# SPDX-License-Identifier: Apache-2.0
"""The bytes of a frozen map and of a journal as the manual describes them (design/formats), by readers
that share no code with the engine's."""

import struct
import uuid
import zlib

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.blockmap import (
    Geometry,
    consolidate,
    load_map,
    owned_blocks,
    read_blob_header,
    stored_segments,
)
from fisk_core.blockmap.journal import CAPACITY, Journal
from fisk_core.dataplane.disk import Disk
from tests.disks import make_pool, make_spec, new_id
from tests.unit.test_log import pool_path

SEGMENT_PAGES = 1024


def parse(data):
    """Give (header fields, layers, segments) of a blob, each segment a list of owners or None for holes."""
    fields = struct.unpack_from("<8sHHIII16sQIIIQ", data)
    magic, version, zero, incompatible, compatible, auto_clear, _, size, block, page, count, length = fields
    assert (magic, version, zero, incompatible, compatible, auto_clear) == (b"FISKMAP\0", 1, 0, 0, 0, 0)
    assert length == len(data)
    at = struct.calcsize("<8sHHIII16sQIIIQ")
    layers = [str(uuid.UUID(bytes=data[at + 16 * n : at + 16 * n + 16])) for n in range(count)]
    at += 16 * count
    segments = -(-size // (page * SEGMENT_PAGES))
    directory = [struct.unpack_from("<QII", data, at + 16 * n) for n in range(segments)]
    at += 16 * segments
    assert struct.unpack_from("<I", data, at) == (zlib.crc32(data[:at]),)
    at += 4
    found = []
    for offset, length, crc in directory:
        if not length:
            assert (offset, crc) == (0, 0)
            found.append(None)
            continue
        assert offset == at, "no gaps"
        frame = data[offset : offset + length]
        at += length
        assert zlib.crc32(frame) == crc
        found.append(unpack(zstandard.ZstdDecompressor().decompress(frame), page // block))
    assert at == len(data)
    return fields, [None, *layers], found


def unpack(segment, per_page):
    heads = struct.unpack_from("<1024H", segment)
    at, owners = 2048, []
    for head in heads:
        if head == 0xFFFF:
            owners += struct.unpack_from(f"<{per_page}H", segment, at)
            at += 2 * per_page
        else:
            owners += [head] * per_page
    assert at == len(segment)
    return owners


@st.composite
def lineages(draw):
    """Geometry, size, and the changes made in up to three periods: (first block, blocks, written)."""
    per_page = draw(st.sampled_from([2, 4]))
    blocks = draw(st.sampled_from([7, per_page * SEGMENT_PAGES, 3 * per_page * SEGMENT_PAGES - 5]))
    near = st.sampled_from([0, 5, per_page * SEGMENT_PAGES - 3, 2 * per_page * SEGMENT_PAGES, blocks - 4])
    change = st.tuples(near, st.integers(1, 9), st.booleans())
    return per_page, blocks, draw(st.lists(st.lists(change, max_size=5), min_size=1, max_size=3))


@given(lineages())
@settings(max_examples=40, deadline=None)
def test_a_frozen_map_is_what_the_manual_says(tmp_path_factory, lineage):
    per_page, blocks, periods = lineage
    geometry, size = Geometry(512, 512 * per_page), 512 * blocks - 200
    pool = make_pool(tmp_path_factory.mktemp("blob") / "pool")
    model, base = [None] * blocks, None
    for changes in periods:
        spec = make_spec(pool, size, geometry, base=base)
        with Disk.open(pool, spec) as disk:
            for first, count, written in changes:
                first = min(first, blocks - 1)
                count = min(count, blocks - first)
                length = min(512 * count, size - 512 * first)
                if written:
                    disk.write(512 * first, b"x" * length)
                else:
                    disk.trim(512 * first, length)
                model[first : first + count] = [spec.map_id if written else None] * count
        base = spec.map_id
    named = consolidate(pool, base, size)
    data = (pool_path(pool) / "blobs" / "maps" / base).read_bytes()
    fields, layers, segments = parse(data)
    assert fields[6:10] == (uuid.UUID(base).bytes, size, 512, 512 * per_page)
    assert named == set(layers) - {None} == set(model) - {None}
    step = SEGMENT_PAGES * per_page
    for index, segment in enumerate(segments):
        wanted = model[index * step : (index + 1) * step]
        wanted += [None] * (step - len(wanted))
        assert [layers[owner] for owner in segment or [0] * step] == wanted
        assert (segment is None) == (not any(wanted)), "a segment of holes takes no space"

    header = read_blob_header(pool, base)
    assert (header.map_id, header.size, header.geometry, header.layers) == (base, size, geometry, layers)
    assert header.length == len(data)
    block_map = load_map(pool, base, size)
    used = [layer for layer in model if layer]
    assert {layers[alias]: n for alias, n in owned_blocks(block_map).items()} == {
        layer: used.count(layer) for layer in set(used)
    }
    assert [index for index, _ in stored_segments(block_map)] == [
        n for n, each in enumerate(segments) if each
    ]
    block_map.close()


# The journal


def test_a_journal_is_what_the_manual_says(tmp_path):
    map_id = new_id()
    journal = Journal(tmp_path / "x.journal", map_id, 77)
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot = file.read().strip()

    def noted():
        data = (tmp_path / "x.journal").read_bytes()
        assert len(data) == 4096 + 16 * CAPACITY
        assert data[:88] == b"FISKJRN2" + map_id.encode() + boot + struct.pack("=Q", 77)
        assert data[88:92] == struct.pack("=I", zlib.crc32(data[:88]))
        start, end = struct.unpack_from("=QQ", data, 128)
        assert (start, end) == (65537 * journal.start, 65537 * journal.end)
        return [change(data, n) for n in range(journal.start, journal.end)]

    def change(data, number):
        first, word = struct.unpack_from("=QQ", data, 4096 + 16 * (number % CAPACITY))
        blocks = word % (1 << 48)
        assert word >> 48 == (5 * number + 3 * first + blocks) % 65521
        return first, blocks

    assert noted() == []
    journal.note(5, 3, True)
    journal.note(1 << 40, 1 << 32, False)
    assert noted() == [(5, 7), (1 << 40, 1 << 33)]
    journal.forget(1)
    assert noted() == [(1 << 40, 1 << 33)]
    journal.forget(2)
    assert noted() == []
    assert (tmp_path / "x.journal").stat().st_mode & 0o777 == 0o600
    journal.close(remove=True)

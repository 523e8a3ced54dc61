# SPDX-License-Identifier: Apache-2.0
"""Pools with checksums: damaged data is never read, and what a crash left is not called damaged."""

import random
import zlib
from dataclasses import replace

import pytest

from fisk_core.blockmap import LogWriter, listed, read_log_header, replay, seal, sums
from fisk_core.blockmap.journal import Change
from fisk_core.blockmap.log import read as read_log
from fisk_core.dataplane.disk import Disk
from fisk_core.engine import Engine
from fisk_core.errors import Corrupt, NoSpace, NotFound, PoolError, ReadOnly, Unsupported
from fisk_core.pools import Kind, create_pool
from fisk_core.services.readers import reading
from tests.disks import TINY, frozen, make_spec, new_id
from tests.engines import BLOCK, MIB, write
from tests.engines import TINY as FIELDS

SIZE = 64 * 2048


@pytest.fixture
def pool(tmp_path):
    return create_pool("file", "pool", {"path": str(tmp_path / "pool"), "checksum": "crc32"})


@pytest.fixture
def engine(tmp_path):
    with Engine.open(tmp_path) as opened:
        opened.create_pool("summed", options={"checksum": "crc32"})
        opened.create("volume", MIB, pool="summed", **FIELDS)
        yield opened


def damage(pool, layer, block):
    with pool.open_device(Kind.LAYER, layer, writable=True) as device:
        data = bytearray(1)
        device.preadv([data], block * BLOCK + 7)
        device.pwritev([bytes([data[0] ^ 16])], block * BLOCK + 7)


def open_pages(pool, map_id):
    with pool.open_device(Kind.LOG, map_id, writable=False) as device:
        return read_log(device, map_id).open_pages


def crash(disk):
    """Let go of a disk as a killed process does."""
    disk.abandon()


@pytest.mark.parametrize("offset", [0, 3, BLOCK, 4 * BLOCK - 1])
def test_a_damaged_block_of_the_live_layer_is_not_read(pool, offset):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, bytes(range(256)) * 16)
    damage(pool, spec.map_id, 4)
    for each in (spec, frozen(spec)):
        with Disk.open(pool, each) as disk:
            assert disk.read(offset, 4 * BLOCK - offset)[:1] == bytes([offset % 256])
            with pytest.raises(Corrupt, match=f"block 4 of layer {spec.map_id}"):
                disk.read(offset, 4 * BLOCK + 1 - offset)
            assert disk.read(5 * BLOCK, BLOCK) == bytes(range(256)) * 2


def test_writing_a_part_of_a_damaged_block_fails_and_all_of_it_mends_it(pool):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 4 * BLOCK)
    damage(pool, spec.map_id, 1)
    with Disk.open(pool, spec) as disk:
        with pytest.raises(Corrupt):
            disk.write(BLOCK + 10, b"part")
        disk.write(BLOCK, b"b" * BLOCK)
        assert disk.read(0, 4 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK + b"a" * 2 * BLOCK


def test_a_page_is_open_from_the_first_overwrite_until_it_rested(pool):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 8 * BLOCK)
        disk.write(0, b"b" * BLOCK)
        assert open_pages(pool, spec.map_id) == set(), "nothing of it was flushed yet"
        disk.flush()
        disk.write(BLOCK, b"c" * BLOCK)
        assert open_pages(pool, spec.map_id) == {0}
        disk.flush()
        assert open_pages(pool, spec.map_id) == {0}
        disk.trim(5 * BLOCK, BLOCK)
        assert open_pages(pool, spec.map_id) == {0, 1}
        disk.flush()
        assert open_pages(pool, spec.map_id) == {1}
        disk.write_zeroes(0, BLOCK, allocate=True)
        assert open_pages(pool, spec.map_id) == {0, 1}
    assert open_pages(pool, spec.map_id) == set()


def test_pages_opened_while_a_flush_runs_stay_open(pool):
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 8 * BLOCK)
    disk.flush()
    disk.write(0, b"b" * BLOCK)
    disk.write(4 * BLOCK, b"b" * BLOCK)
    disk.flush()
    flush = disk.begin_flush()
    assert flush
    assert sorted(flush.rested) == [0, 1]
    disk.write(0, b"c" * BLOCK)
    flush.run()
    disk.end_flush(flush, None)
    assert open_pages(pool, spec.map_id) == {0}
    crash(disk)
    with Disk.open(pool, frozen(spec)) as reader:
        assert reader.read(0, BLOCK) == b"c" * BLOCK


def test_what_a_crash_tore_is_read_and_everything_else_compared(pool):
    """A block whose sum is newer or older than its data is no damage where it was being overwritten."""
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 8 * BLOCK)
    disk.flush()
    disk.write(0, b"b" * BLOCK)
    crash(disk)
    damage(pool, spec.map_id, 0)
    damage(pool, spec.map_id, 5)
    with Disk.open(pool, frozen(spec)) as reader:
        assert len(reader.read(0, 4 * BLOCK)) == 4 * BLOCK
        with pytest.raises(Corrupt):
            reader.read(5 * BLOCK, BLOCK)
    with Disk.open(pool, spec) as writer:
        assert open_pages(pool, spec.map_id) == set(), "healed"
        assert writer.read(BLOCK, BLOCK) == b"a" * BLOCK
    damage(pool, spec.map_id, 1)
    with Disk.open(pool, frozen(spec)) as reader, pytest.raises(Corrupt):
        reader.read(BLOCK, BLOCK)


def test_sealing_after_a_crash_heals(pool):
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 8 * BLOCK)
    disk.write(9 * BLOCK, b"a" * BLOCK)
    disk.flush()
    disk.write(9 * BLOCK, b"b" * BLOCK)
    disk.write(0, b"b" * BLOCK)
    crash(disk)
    damage(pool, spec.map_id, 0)
    seal(pool, spec.map_id)
    assert open_pages(pool, spec.map_id) == set()
    with Disk.open(pool, frozen(spec)) as reader:
        assert reader.read(BLOCK, BLOCK) == b"a" * BLOCK
        assert reader.read(9 * BLOCK, BLOCK) == b"b" * BLOCK


def test_without_room_to_heal_these_blocks_are_just_not_compared(pool, monkeypatch):
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 8 * BLOCK)
    disk.flush()
    disk.write(0, b"b" * BLOCK)
    crash(disk)
    damage(pool, spec.map_id, 0)

    def full(*_):
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", full)
        disk = Disk.open(pool, spec)
    with disk:
        disk.read(0, BLOCK)
        disk.write(BLOCK, b"c" * BLOCK)
        disk.flush()
        disk.flush()
    assert open_pages(pool, spec.map_id) == {0}, "its other blocks were never looked at"
    with Disk.open(pool, frozen(spec)) as reader:
        reader.read(0, BLOCK)


def test_replayed_changes_get_the_sums_of_what_is_there(pool):
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 2 * BLOCK)
    crash(disk)
    damage(pool, spec.map_id, 1)  # the data of an overwrite whose sum was not recorded yet
    assert replay(pool, spec.map_id, SIZE, [Change(0, 2, True), Change(4, 1, False)], list) == 3
    with Disk.open(pool, frozen(spec)) as reader:
        assert reader.read(0, BLOCK) == b"a" * BLOCK
        assert reader.read(BLOCK, BLOCK) != b"a" * BLOCK


def test_a_snapshot_keeps_its_sums_while_the_disk_goes_on(pool):
    from fisk_core.blockmap import LogHeader, create_log

    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 8 * BLOCK)
        disk.flush()
        disk.write(0, b"b" * BLOCK)
        after = replace(spec, map_id=new_id())
        create_log(pool, LogHeader(after.map_id, spec.map_id, spec.fisk_id, SIZE, TINY))
        sealing = disk.begin_period(after)
        sealing.run()
        disk.end_flush(sealing, None)
        sealing.period.log.close()
        assert open_pages(pool, spec.map_id) == set()
        disk.write(BLOCK, b"c" * BLOCK)
        assert disk.read(0, 3 * BLOCK) == b"b" * BLOCK + b"c" * BLOCK + b"a" * BLOCK
        damage(pool, spec.map_id, 2)
        with pytest.raises(Corrupt, match=spec.map_id):
            disk.read(0, 3 * BLOCK)


def test_growing_adds_pages_without_sums(pool):
    spec = make_spec(pool, 2048)
    with Disk.open(pool, spec) as disk:
        disk.resize(SIZE)
        disk.write(SIZE - 2048, b"z" * 2048)
        disk.flush()
        disk.write(SIZE - 2048, b"y" * 2048)
        disk.flush()
    with Disk.open(pool, replace(spec, size=SIZE)) as disk:
        assert disk.read(SIZE - 2048, 2048) == b"y" * 2048


def test_data_that_nobody_saw_cannot_be_adopted(pool):
    with Disk.open(pool, make_spec(pool, SIZE)) as disk, pytest.raises(Unsupported):
        disk.adopt(0, BLOCK)


def test_sums_of_another_layer_or_none_are_named(pool):
    first, second = make_spec(pool, SIZE), make_spec(pool, SIZE)
    for spec in (first, second):
        with Disk.open(pool, spec) as disk:
            disk.write(0, b"a" * BLOCK)
    with pool.open_device(Kind.SUMS, first.map_id, writable=False) as device:
        data = bytearray(device.size)
        device.preadv([data], 0)
    with pool.open_device(Kind.SUMS, second.map_id, writable=True) as device:
        device.pwritev([data], 0)
    with pytest.raises(Corrupt, match="not theirs"):
        Disk.open(pool, second)
    pool.delete_device(Kind.SUMS, second.map_id)
    with pytest.raises(Corrupt, match="are missing"):
        Disk.open(pool, second)


def test_lists_of_earlier_versions_are_compared(pool):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 3 * BLOCK)
        disk.write(6 * BLOCK, b"b" * BLOCK)
    blob = listed.HEADER.pack(listed.MAGIC, 1, BLOCK)
    for first, count, data in ((0, 3, b"a" * BLOCK), (6, 1, b"b" * BLOCK)):
        blob += listed.RUN.pack(first, count) + zlib.crc32(data).to_bytes(4, "little") * count
    pool.put_blob(listed.name_of(spec.map_id), [blob + zlib.crc32(blob).to_bytes(4, "little")])
    from fisk_core.blockmap import consolidate

    consolidate(pool, spec.map_id, SIZE)
    pool.delete_device(Kind.SUMS, spec.map_id)
    pool.delete_device(Kind.LOG, spec.map_id)
    with Disk.open(pool, frozen(spec)) as disk:
        assert disk.read(0, 8 * BLOCK) == b"a" * 3 * BLOCK + bytes(3 * BLOCK) + b"b" * BLOCK + bytes(BLOCK)
        damage(pool, spec.map_id, 6)
        with pytest.raises(Corrupt):
            disk.read(0, 8 * BLOCK)
    pool.put_blob(listed.name_of(spec.map_id), [blob + b"\0\0\0\0"])
    with Disk.open(pool, frozen(spec)) as disk, pytest.raises(Corrupt):
        disk.read(0, BLOCK)


def test_a_period_of_an_earlier_version_gets_its_sums_when_it_is_frozen(engine):
    """Its log does not say that it has any."""
    from fisk_core.blockmap import log

    pool = engine.open_pool("summed")
    write(engine, "volume", 0, b"a" * 4 * BLOCK)
    map_id = engine.get("volume").map_id
    header = replace(read_log_header(pool, map_id), sums=False)
    log.rewrite(pool, header, [(0, 1)], 1)
    pool.delete_device(Kind.SUMS, map_id)
    write(engine, "volume", 0, b"b" * BLOCK)
    engine.snapshot("volume", "kept")
    engine.settle()
    with engine.open_disk("kept") as disk:
        assert disk.read(0, 2 * BLOCK) == b"b" * BLOCK + b"a" * BLOCK
    damage(pool, map_id, 1)
    with engine.open_disk("kept") as disk, pytest.raises(Corrupt):
        disk.read(0, 2 * BLOCK)
    assert [each.kind for each in engine.scrub("kept").problems] == ["data"]


def test_whoever_reads_a_whole_fisk_looks_at_it(engine, tmp_path):
    write(engine, "volume", 0, random.Random(1).randbytes(32 * BLOCK))
    engine.snapshot("volume", "kept")
    engine.settle()
    damage(engine.open_pool("summed"), engine.get("kept").map_id, 9)
    with pytest.raises(Corrupt, match="block 9"), reading(engine, engine.get("kept")) as reader:
        list(reader.parts())
    with pytest.raises(Corrupt, match="block 9"):
        engine.move("volume", "default")
    assert engine.get("volume").pool == "summed"


@pytest.mark.parametrize(("source", "target"), [("summed", "default"), ("default", "summed")])
def test_moving_to_and_from_pools_with_checksums(engine, source, target):
    content = random.Random(1).randbytes(32 * BLOCK)
    engine.create("moved", MIB, pool=source, **FIELDS)
    write(engine, "moved", BLOCK, content)
    engine.move("moved", target)
    with engine.open_disk("moved", writable=True) as disk:
        assert disk.read(0, 40 * BLOCK) == bytes(BLOCK) + content + bytes(7 * BLOCK)
        disk.write(0, b"x")
    assert engine.check().ok
    assert engine.scrub().ok


def test_the_pool_says_itself_whether_data_is_compared(pool):
    from fisk_core.pools.file import FilePool

    again = FilePool.open("pool", {"path": pool.options["path"], "checksum": "none"})
    assert again.options["checksum"] == "crc32"


@pytest.mark.parametrize("act", ["write", "zero"])
def test_a_write_that_failed_leaves_what_can_be_read(pool, monkeypatch, act):
    """Half of it is there: neither its old checksums hold nor the new ones."""
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 4 * BLOCK)
        disk.flush()
        layer = disk.writable().layer
        put = layer.pwritev

        def half(*_):
            put([b"b" * (BLOCK + 100)], 0)
            raise PoolError("the medium failed")

        with monkeypatch.context() as patch:
            patch.setattr(layer, "pwritev" if act == "write" else "write_zeroes", half)
            with pytest.raises(PoolError):
                disk.write(0, b"b" * 3 * BLOCK) if act == "write" else disk.write_zeroes(0, 3 * BLOCK, True)
        assert disk.read(0, 2 * BLOCK) == b"b" * (BLOCK + 100) + b"a" * (BLOCK - 100)


def test_a_log_that_cannot_open_a_page_ends_writing(pool, monkeypatch):
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 4 * BLOCK)
    disk.flush()

    def broken(*_):
        raise PoolError("the medium failed")

    monkeypatch.setattr(LogWriter, "open_pages", broken)
    with pytest.raises(PoolError):
        disk.write(0, b"b" * BLOCK)
    with pytest.raises(ReadOnly, match="its log could not be written"):
        disk.write(0, b"b" * BLOCK)
    assert disk.read(0, BLOCK) == b"a" * BLOCK
    disk.close()


def test_check_names_layers_whose_sums_are_missing(engine):
    write(engine, "volume", 0, b"a" * 4 * BLOCK)
    assert engine.check().ok
    layer = engine.get("volume").map_id
    engine.open_pool("summed").delete_device(Kind.SUMS, layer)
    assert [(each.kind, each.subject) for each in engine.check().problems] == [("sums", layer)]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"version": 2}, Unsupported, "needs a newer Fisk"),
        ({"block_size": 1024}, Corrupt, "of blocks of another size"),
        ({"magic": b"FISKSUMX"}, Corrupt, "not theirs"),
    ],
)
def test_headers_that_say_something_else_are_refused(pool, change, kind, text):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * BLOCK)
    with pool.open_device(Kind.SUMS, spec.map_id, writable=True) as device:
        data = bytearray(sums.HEADER.size)
        device.preadv([data], 0)
        names = ("magic", "version", "zero", "incompatible", "compatible", "clear", "layer", "block_size")
        fields = {**dict(zip(names, sums.HEADER.unpack(data), strict=True)), **change}
        head = sums.HEADER.pack(*fields.values())
        device.pwritev([head + zlib.crc32(head).to_bytes(4, "little")], 0)
    with pytest.raises(kind, match=text):
        Disk.open(pool, spec)
    with Disk.open(pool, frozen(spec)) as reader, pytest.raises(kind, match=text):
        reader.read(0, BLOCK)


@pytest.mark.parametrize(
    ("magic", "version", "kind"), [(b"x" * 8, 1, Corrupt), (listed.MAGIC, 9, Unsupported)]
)
def test_lists_that_are_none_are_refused(pool, magic, version, kind):
    layer, body = new_id(), listed.HEADER.pack(magic, version, BLOCK)
    pool.put_blob(listed.name_of(layer), [body + zlib.crc32(body).to_bytes(4, "little")])
    with pytest.raises(kind):
        listed.Listed(pool, layer)


def test_a_layer_that_is_gone_leaves_no_open_checksums(pool):
    spec = make_spec(pool, SIZE)
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * BLOCK)
    pool.delete_device(Kind.LAYER, spec.map_id)
    with Disk.open(pool, frozen(spec)) as reader, pytest.raises(NotFound):
        reader.read(0, BLOCK)


def test_who_goes_on_for_another_heals_when_it_is_in_charge(pool):
    """The one before let go without closing its pages."""
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 8 * BLOCK)
    disk.flush()
    disk.write(0, b"b" * BLOCK)
    disk.flush()
    after = Disk.open(pool, spec, untouched=True)
    crash(disk)
    assert open_pages(pool, spec.map_id) == {0}
    with after:
        after.take_charge()
        assert open_pages(pool, spec.map_id) == set()
        assert after.read(0, 2 * BLOCK) == b"b" * BLOCK + b"a" * BLOCK
        after.write(BLOCK, b"c" * BLOCK)
        assert open_pages(pool, spec.map_id) == {0}


def test_compaction_keeps_open_pages(pool, monkeypatch):
    monkeypatch.setattr("fisk_core.blockmap.log.COMPACT_AT", 1024)
    spec = make_spec(pool, SIZE)
    disk = Disk.open(pool, spec)
    for number in range(20):
        disk.write(0, bytes([number]) * 12 * BLOCK)
        disk.flush()
    disk.write(0, b"z" * BLOCK)
    pages = open_pages(pool, spec.map_id)
    assert 0 in pages
    crash(disk)
    with Disk.open(pool, frozen(spec)) as reader:
        assert reader.read(0, 2 * BLOCK) == b"z" * BLOCK + bytes([19]) * BLOCK

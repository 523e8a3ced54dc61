# SPDX-License-Identifier: Apache-2.0
"""The tests each pool driver must pass.

Subclass ``PoolConformance`` under a name that starts with ``Test`` and give it a fixture ``pool``: an empty
pool, whose spec leads another process of this host to it.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from uuid import uuid4

import pytest

from fisk_core import errors
from fisk_core.pools import Device, Kind, Pool, open_pool

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
BLOCK = 4 * KIB
GOOD_ID = "5f0c11d2-3a4b-4c5d-8e6f-708192a3b4c5"
BAD_IDS = (
    "",
    ".",
    "../pool",
    "/etc/passwd",
    "a" * 36,
    "-" * 36,
    GOOD_ID.upper(),
    GOOD_ID + "\n",
    GOOD_ID + "/x",
    GOOD_ID[:-1] + "\0",
)
BAD_BLOB_NAMES = (
    *BAD_IDS,
    GOOD_ID,
    f"maps/{GOOD_ID}\n",
    f"Maps/{GOOD_ID}",
    f"/maps/{GOOD_ID}",
    f"../maps/{GOOD_ID}",
    f"maps/../{GOOD_ID}",
    f"maps//{GOOD_ID}",
    "maps/..",
    "maps/",
)
BAD_PREFIXES = ("..", "../", "/", "maps/x", "Maps", "maps/\n")
KINDS = pytest.mark.parametrize("kind", list(Kind))


def new_id() -> str:
    return str(uuid4())


def read(device: Device, length: int, offset: int = 0) -> bytes:
    """Give what ``device`` has there, fewer bytes at its end."""
    buffer = bytearray(length)
    return bytes(buffer[: device.preadv([buffer], offset)])


def in_fresh_process(pool: Pool, *program: str) -> object:
    """Run lines of ``program`` over ``pool``, reopened by another process; gives what it answers.

    The program calls ``answer`` once, with JSON types.
    """
    lines = (
        "import json, os, sys",
        "from fisk_core.pools import Kind, open_pool",
        "def answer(value): print(json.dumps(value), flush=True)",
        "pool = open_pool(json.loads(sys.argv[1]))",
        *program,
    )
    command = [sys.executable, "-c", "\n".join(lines), json.dumps(pool.spec())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


class PoolConformance:
    """Every promise of ``fisk_core.pools.base``, tried from outside."""

    accounts_space = True
    """False for a medium that does not tell how much space a device takes, nor where its holes are."""

    @pytest.fixture
    def layer(self, pool: Pool) -> Iterator[Device]:
        """An empty layer, open for writing."""
        if not pool.capabilities.random_write:
            pytest.skip("this pool cannot be written in place")
        with pool.create_device(Kind.LAYER, new_id()) as device:
            yield device

    # The pool

    def test_spec_is_json_and_leads_a_fresh_process_to_the_pool(self, pool: Pool) -> None:
        assert json.loads(json.dumps(pool.spec())) == pool.spec()
        pool.put_blob(f"maps/{GOOD_ID}", [b"content"])
        found = in_fresh_process(pool, "answer([pool.id, pool.name, list(pool.list_blobs())])")
        assert found == [pool.id, pool.name, [f"maps/{GOOD_ID}"]]

    def test_reopened_in_this_process_it_is_the_same_pool(self, pool: Pool) -> None:
        again = open_pool(pool.spec())
        assert (again.id, again.name, dict(again.options)) == (pool.id, pool.name, dict(pool.options))
        assert again.capabilities == pool.capabilities

    def test_an_empty_pool_lists_nothing(self, pool: Pool) -> None:
        assert [*pool.list_devices(Kind.LAYER), *pool.list_devices(Kind.LOG), *pool.list_blobs()] == []

    def test_space_is_plausible(self, pool: Pool) -> None:
        space = pool.space()
        assert 0 <= space.free <= space.total
        assert space.total > 0 or not self.accounts_space

    # Devices: names

    @KINDS
    def test_device_appears_when_created_and_goes_when_deleted(self, pool: Pool, kind: Kind) -> None:
        device_id = new_id()
        assert not pool.exists(kind, device_id)
        pool.create_device(kind, device_id, 5).close()
        pool.sync_device_name(kind, device_id)
        assert pool.exists(kind, device_id)
        assert list(pool.list_devices(kind)) == [device_id]
        pool.delete_device(kind, device_id)
        pool.sync_names()
        assert not pool.exists(kind, device_id)
        assert list(pool.list_devices(kind)) == []

    def test_layer_and_log_of_one_id_are_two_devices(self, pool: Pool) -> None:
        device_id = new_id()
        pool.create_device(Kind.LAYER, device_id, 3).close()
        assert not pool.exists(Kind.LOG, device_id)
        pool.create_device(Kind.LOG, device_id, 7).close()
        pool.delete_device(Kind.LAYER, device_id)
        with pool.open_device(Kind.LOG, device_id, writable=False) as log:
            assert log.size == 7

    def test_many_devices_are_all_listed(self, pool: Pool) -> None:
        ids = {new_id() for _ in range(50)}
        for device_id in ids:
            pool.create_device(Kind.LAYER, device_id).close()
        assert sorted(pool.list_devices(Kind.LAYER)) == sorted(ids)

    @KINDS
    def test_creating_an_id_twice_is_refused_and_harmless(self, pool: Pool, kind: Kind) -> None:
        device_id = new_id()
        pool.create_device(kind, device_id, 11).close()
        with pytest.raises(errors.AlreadyExists, match=device_id):
            pool.create_device(kind, device_id, 22)
        with pool.open_device(kind, device_id, writable=False) as device:
            assert device.size == 11

    @KINDS
    def test_of_concurrent_creators_one_wins(self, pool: Pool, kind: Kind) -> None:
        other = open_pool(pool.spec())

        def create(device_id: str, maker: Pool) -> bool:
            try:
                maker.create_device(kind, device_id).close()
            except errors.AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(8) as executor:
            for _ in range(10):
                device_id = new_id()
                makers = [pool, other] * 4
                assert sum(executor.map(create, [device_id] * len(makers), makers)) == 1

    @KINDS
    def test_unknown_id_is_not_found(self, pool: Pool, kind: Kind) -> None:
        for use in (
            lambda: pool.open_device(kind, GOOD_ID, writable=False),
            lambda: pool.open_device(kind, GOOD_ID, writable=True),
            lambda: pool.usage(kind, GOOD_ID),
            lambda: pool.sync_device_name(kind, GOOD_ID),
        ):
            with pytest.raises(errors.NotFound, match=GOOD_ID):
                use()
        pool.delete_device(kind, GOOD_ID)
        assert not pool.exists(kind, GOOD_ID)

    @KINDS
    def test_what_is_no_id_is_refused_by_every_verb(self, pool: Pool, kind: Kind) -> None:
        verbs: list[Callable[[str], object]] = [
            lambda bad: pool.create_device(kind, bad),
            lambda bad: pool.open_device(kind, bad, writable=True),
            lambda bad: pool.delete_device(kind, bad),
            lambda bad: pool.exists(kind, bad),
            lambda bad: pool.usage(kind, bad),
            lambda bad: pool.sync_device_name(kind, bad),
            lambda bad: pool.replace_log(bad, [b"x"]),
            lambda bad: pool.locate(kind, bad),
        ]
        for verb, bad in product(verbs, BAD_IDS):
            with pytest.raises(errors.InvalidValue):
                verb(bad)

    # Devices: bytes

    def test_written_bytes_are_read_back_also_by_a_fresh_process(self, pool: Pool, layer: Device) -> None:
        [layer_id] = pool.list_devices(Kind.LAYER)
        assert layer.pwritev([b"abc", bytearray(b"de"), memoryview(b"f")], 1000) == 6
        layer.flush()
        assert read(layer, 8, 999) == b"\0abcdef"
        found = in_fresh_process(
            pool,
            "buffer = bytearray(10)",
            f"device = pool.open_device(Kind.LAYER, {layer_id!r}, writable=False)",
            "answer([device.preadv([buffer], 1000), buffer.hex()])",
        )
        assert found == [6, b"abcdef\0\0\0\0".hex()]

    def test_reads_are_short_at_the_end_and_only_there(self, layer: Device) -> None:
        layer.pwritev([b"0123456789"], 0)
        assert read(layer, 4, 2) == b"2345"
        assert read(layer, 10, 7) == b"789"
        assert read(layer, 10, 10) == b""
        assert read(layer, 10, TIB) == b""
        first, second = bytearray(6), bytearray(8)
        assert layer.preadv([first, memoryview(second)], 0) == 10
        assert bytes(first + second) == b"0123456789\0\0\0\0"

    def test_many_and_empty_buffers(self, layer: Device) -> None:
        parts = [bytes([number % 251]) * 3 for number in range(2500)]
        assert layer.pwritev([b"", *parts, b""], 5) == 7500
        assert layer.pwritev([], 5) == layer.pwritev([b""], 5) == 0
        into = [bytearray(3) for _ in parts]
        assert layer.preadv([bytearray(), *into], 5) == 7500
        assert into == parts

    def test_a_write_beyond_the_end_extends_with_zeros(self, layer: Device) -> None:
        layer.pwritev([b"x"], 3 * BLOCK)
        assert layer.size == 3 * BLOCK + 1
        assert read(layer, 3 * BLOCK + 1) == bytes(3 * BLOCK) + b"x"

    def test_truncate_cuts_and_what_comes_back_is_zero(self, layer: Device) -> None:
        layer.pwritev([b"x" * 3 * BLOCK], 0)
        layer.truncate(BLOCK + 1)
        assert layer.size == BLOCK + 1
        layer.truncate(2 * BLOCK)
        assert read(layer, 3 * BLOCK) == b"x" * (BLOCK + 1) + bytes(BLOCK - 1)

    def test_size_at_creation_reads_as_zeros(self, pool: Pool) -> None:
        with pool.create_device(Kind.LAYER, new_id(), 10_001) as device:
            assert device.size == 10_001
            assert read(device, 20_000) == bytes(10_001)

    def test_two_open_devices_see_the_same_bytes(self, pool: Pool, layer: Device) -> None:
        [layer_id] = pool.list_devices(Kind.LAYER)
        with pool.open_device(Kind.LAYER, layer_id, writable=False) as reader:
            layer.pwritev([b"seen"], 0)
            assert read(reader, 9) == b"seen"

    def test_deleted_device_stays_usable_while_open(self, pool: Pool, layer: Device) -> None:
        [layer_id] = pool.list_devices(Kind.LAYER)
        layer.pwritev([b"still"], 0)
        pool.delete_device(Kind.LAYER, layer_id)
        layer.pwritev([b" here"], 5)
        assert read(layer, 20) == b"still here"

    def test_every_change_through_a_read_only_device_is_refused(self, pool: Pool, layer: Device) -> None:
        [layer_id] = pool.list_devices(Kind.LAYER)
        layer.pwritev([b"x" * BLOCK], 0)
        with pool.open_device(Kind.LAYER, layer_id, writable=False) as reader:
            changes: list[Callable[[], object]] = [
                lambda: reader.pwritev([b"y"], 0),
                lambda: reader.discard(0, BLOCK),
                lambda: reader.write_zeroes(0, BLOCK),
                lambda: reader.truncate(0),
            ]
            for change in changes:
                with pytest.raises(errors.ReadOnly):
                    change()
        assert read(layer, 2 * BLOCK) == b"x" * BLOCK

    def test_negative_ranges_are_refused(self, layer: Device) -> None:
        layer.pwritev([b"x" * BLOCK], 0)
        for offset, length in ((-1, 1), (0, -1), (-BLOCK, BLOCK)):
            for use in (layer.discard, layer.write_zeroes, layer.preallocate):
                with pytest.raises(errors.InvalidValue):
                    use(offset, length)
            with pytest.raises(errors.InvalidValue):
                list(layer.data_extents(offset, length))
        with pytest.raises(errors.InvalidValue):
            layer.truncate(-1)
        assert read(layer, BLOCK) == b"x" * BLOCK

    def test_a_closed_device_fails_loudly(self, layer: Device) -> None:
        layer.close()
        layer.close()
        uses: list[Callable[[], object]] = [
            lambda: read(layer, 1),
            lambda: layer.pwritev([b"x"], 0),
            lambda: layer.flush(),
            lambda: layer.size,
        ]
        for use in uses:
            with pytest.raises(errors.FiskError):
                use()

    def test_a_message_nobody_knows_is_refused(self, layer: Device) -> None:
        with pytest.raises(errors.Unsupported, match="make-coffee"):
            layer.control({"op": "make-coffee"})

    def test_route_leads_to_the_bytes(self, pool: Pool, layer: Device) -> None:
        layer.pwritev([bytes(range(200))], 0)
        try:
            parts = layer.route(50, 100)
        except errors.Unsupported:
            pytest.skip("this pool transforms bytes")
        assert sum(length for _, _, length in parts) == 100
        found = b"".join(
            Path(f"/proc/self/fd/{fd}").read_bytes()[at : at + length] for fd, at, length in parts
        )
        assert found == bytes(range(50, 150))

    # Devices: holes

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, MIB), (BLOCK, BLOCK), (100, 50), (BLOCK - 1, BLOCK + 2), (BLOCK, 0)]
    )
    @pytest.mark.parametrize("verb", ["discard", "write_zeroes"])
    def test_discard_and_zeroes_hit_exactly_their_range(
        self, layer: Device, verb: str, offset: int, length: int
    ) -> None:
        layer.pwritev([b"x" * MIB], 0)
        getattr(layer, verb)(offset, length)
        assert read(layer, 2 * MIB) == b"x" * offset + bytes(length) + b"x" * (MIB - offset - length)

    def test_discard_leaves_the_size_alone(self, layer: Device) -> None:
        layer.pwritev([b"x" * 100], 0)
        layer.discard(50, MIB)
        layer.discard(2 * MIB, MIB)
        assert layer.size == 100
        assert read(layer, 200) == b"x" * 50 + bytes(50)

    def test_write_zeroes_extends_like_a_write(self, layer: Device) -> None:
        layer.pwritev([b"x" * 100], 0)
        layer.write_zeroes(50, 3 * MIB + 7)
        assert layer.size == 3 * MIB + 57
        assert read(layer, 4 * MIB) == b"x" * 50 + bytes(3 * MIB + 7)

    def test_a_large_sparse_layer_takes_little_space(self, pool: Pool) -> None:
        layer_id = new_id()
        with pool.create_device(Kind.LAYER, layer_id, TIB) as device:
            device.pwritev([b"x" * BLOCK], TIB // 2)
            device.flush()
            assert device.size == TIB
            assert device.allocated() <= MIB
            assert pool.usage(Kind.LAYER, layer_id) <= MIB
            extents = list(device.data_extents(0, TIB))
            assert sum(length for _, length in extents) <= MIB or not self.accounts_space
            assert any(at <= TIB // 2 and at + length >= TIB // 2 + BLOCK for at, length in extents)

    def test_space_is_counted_and_discard_returns_it(self, pool: Pool, layer: Device) -> None:
        if not self.accounts_space:
            pytest.skip("this medium does not count")
        [layer_id] = pool.list_devices(Kind.LAYER)
        layer.pwritev([b"x" * 4 * MIB], 0)
        layer.flush()
        before = pool.usage(Kind.LAYER, layer_id)
        assert before >= 4 * MIB
        assert layer.allocated() == before
        layer.discard(MIB, 2 * MIB)
        layer.flush()
        assert pool.usage(Kind.LAYER, layer_id) <= before - 2 * MIB + 64 * KIB

    def test_data_extents_cover_all_data_within_the_range(self, layer: Device) -> None:
        layer.truncate(64 * MIB)
        for at in (0, 8 * MIB, 40 * MIB):
            layer.pwritev([b"x" * MIB], at)
        layer.flush()
        start, length = 8 * MIB + 512 * KIB, 48 * MIB
        extents = list(layer.data_extents(start, length))
        assert all(start <= at and at + size <= start + length and size > 0 for at, size in extents)
        assert all(at + size <= following for (at, size), (following, _) in pairwise(extents))
        for point in (start, 9 * MIB - 1, 40 * MIB, 41 * MIB - 1):
            assert any(at <= point < at + size for at, size in extents)

    def test_data_extents_end_at_the_end(self, layer: Device) -> None:
        layer.pwritev([b"x" * 10], 0)
        assert [*layer.data_extents(10, 100), *layer.data_extents(0, 0), *layer.data_extents(TIB, 1)] == []
        assert list(layer.data_extents(0, TIB)) == [(0, 10)]

    def test_preallocate_changes_neither_size_nor_content(self, pool: Pool, layer: Device) -> None:
        layer.pwritev([b"x" * BLOCK], 0)
        assert layer.preallocate(0, 4 * MIB) is pool.capabilities.preallocate
        assert (layer.size, read(layer, MIB)) == (BLOCK, b"x" * BLOCK)
        if pool.capabilities.preallocate:
            assert layer.allocated() >= 4 * MIB

    def test_clone_range_shares_or_declines(self, pool: Pool, layer: Device) -> None:
        layer.truncate(4 * MIB)
        with pool.staging_file() as path, path.open("w+b", buffering=0) as source:
            source.write(b"s" * MIB)
            cloned = pool.clone_range(source.fileno(), layer, 0, 2 * MIB, MIB)
        assert cloned is pool.capabilities.reflink
        expected = b"s" * MIB if cloned else bytes(MIB)
        assert read(layer, 4 * MIB) == bytes(2 * MIB) + expected + bytes(MIB)

    # Logs

    def test_replace_log_is_whole_and_keeps_the_old_one_for_who_has_it_open(self, pool: Pool) -> None:
        log_id = new_id()
        with pool.create_device(Kind.LOG, log_id) as old:
            old.pwritev([b"old content"], 0)
            pool.replace_log(log_id, [b"new", b"", b" one"])
            assert read(old, 20) == b"old content"
        with pool.open_device(Kind.LOG, log_id, writable=True) as new:
            assert read(new, 20) == b"new one"
            new.pwritev([b"+"], new.size)
            assert read(new, 20) == b"new one+"
        assert list(pool.list_devices(Kind.LOG)) == [log_id]

    def test_replace_log_that_fails_changes_nothing(self, pool: Pool) -> None:
        log_id = new_id()
        pool.replace_log(log_id, [b"old"])
        with pytest.raises(ZeroDivisionError):
            pool.replace_log(log_id, (bytes(1 // number) for number in (1, 0)))
        with pool.open_device(Kind.LOG, log_id, writable=False) as log:
            assert read(log, 9) == b"old"
        assert pool.sweep_staging() == 0

    # Blobs

    @pytest.mark.parametrize("durable", [True, False])
    def test_blob_is_put_read_replaced_and_deleted(self, pool: Pool, durable: bool) -> None:
        name = f"maps/{new_id()}"
        assert not pool.has_blob(name)
        pool.put_blob(name, [b"one", b"", b" two"], durable)
        assert pool.has_blob(name)
        assert pool.get_blob(name) == b"one two"
        pool.put_blob(name, iter([b"three"]), durable)
        assert pool.get_blob(name) == b"three"
        pool.sync_names()
        pool.delete_blob(name)
        pool.delete_blob(name)
        assert not pool.has_blob(name)
        for use in (pool.get_blob, pool.open_blob):
            with pytest.raises(errors.NotFound, match=name):
                use(name)

    def test_empty_and_large_blobs(self, pool: Pool) -> None:
        empty, large = f"sums/{new_id()}", f"sums/{new_id()}"
        pool.put_blob(empty, [])
        assert pool.get_blob(empty) == b""
        pool.put_blob(large, (bytes([number]) * MIB for number in range(8)))
        assert pool.get_blob(large) == b"".join(bytes([number]) * MIB for number in range(8))

    def test_blob_reader_reads_anywhere_short_only_at_the_end(self, pool: Pool) -> None:
        name = f"maps/{new_id()}"
        pool.put_blob(name, [b"0123456789"])
        with pool.open_blob(name) as blob:
            assert blob.size == 10
            assert [blob.pread(3, 4), blob.pread(9, 8), blob.pread(1, 10), blob.pread(0, 0)] == [
                b"456",
                b"89",
                b"",
                b"",
            ]
            with pytest.raises(errors.InvalidValue):
                blob.pread(-1, 0)
        blob.close()
        with pytest.raises(errors.FiskError):
            blob.pread(1, 0)

    def test_open_blob_stays_readable_after_replace_and_delete(self, pool: Pool) -> None:
        name = f"maps/{new_id()}"
        pool.put_blob(name, [b"first version"])
        with pool.open_blob(name) as first:
            pool.put_blob(name, [b"second"])
            with pool.open_blob(name) as second:
                pool.delete_blob(name)
                assert (first.pread(99, 0), second.pread(99, 0)) == (b"first version", b"second")

    def test_a_blob_in_the_making_is_invisible(self, pool: Pool) -> None:
        old, new = f"maps/{new_id()}", f"maps/{new_id()}"
        pool.put_blob(old, [b"old"])
        seen = []

        def chunks() -> Iterator[bytes]:
            yield b"half"
            seen.append((sorted(pool.list_blobs("maps/")), pool.has_blob(new), pool.get_blob(old)))
            yield b" and half"

        pool.put_blob(new, chunks())
        pool.put_blob(old, chunks())
        assert seen == [([old], False, b"old"), (sorted([old, new]), True, b"old")]
        assert pool.get_blob(old) == b"half and half"

    def test_put_blob_that_fails_changes_nothing(self, pool: Pool) -> None:
        old, new = f"maps/{new_id()}", f"maps/{new_id()}"
        pool.put_blob(old, [b"old"])
        for name in (old, new):
            with pytest.raises(ZeroDivisionError):
                pool.put_blob(name, (bytes(1 // number) for number in (1, 0)))
        assert (list(pool.list_blobs()), pool.get_blob(old)) == ([old], b"old")
        assert pool.sweep_staging() == 0

    def test_readers_of_a_blob_that_is_replaced_see_whole_versions(self, pool: Pool) -> None:
        name = f"maps/{new_id()}"
        versions = [bytes([number]) * (100 + number * 1000) for number in range(30)]
        pool.put_blob(name, [versions[0]])

        def write(part: list[bytes]) -> None:
            for version in part:
                pool.put_blob(name, [version[:50], version[50:]], durable=False)

        with ThreadPoolExecutor(2) as executor:
            writers = [executor.submit(write, versions[:15]), executor.submit(write, versions[15:])]
            while not all(writer.done() for writer in writers):
                assert pool.get_blob(name) in versions
            for writer in writers:
                writer.result()
        assert list(pool.list_blobs()) == [name]

    def test_blobs_are_listed_by_family(self, pool: Pool) -> None:
        maps, sums = ({f"{family}/{new_id()}" for _ in range(5)} for family in ("maps", "sums"))
        for name in maps | sums:
            pool.put_blob(name, [b"x"], durable=False)
        assert set(pool.list_blobs("maps/")) == set(pool.list_blobs("maps")) == maps
        assert set(pool.list_blobs("sums/")) == sums
        assert set(pool.list_blobs("")) == maps | sums
        assert list(pool.list_blobs("map")) == list(pool.list_blobs("other/")) == []

    def test_what_is_no_blob_name_is_refused_by_every_verb(self, pool: Pool) -> None:
        verbs: list[Callable[[str], object]] = [
            lambda bad: pool.put_blob(bad, [b"x"]),
            pool.get_blob,
            pool.open_blob,
            pool.delete_blob,
            pool.has_blob,
        ]
        for verb, bad in product(verbs, BAD_BLOB_NAMES):
            with pytest.raises(errors.InvalidValue):
                verb(bad)

    def test_what_is_no_prefix_is_refused(self, pool: Pool) -> None:
        for bad in BAD_PREFIXES:
            with pytest.raises(errors.InvalidValue):
                list(pool.list_blobs(bad))

    # Staging

    def test_staging_file_lives_as_long_as_its_context(self, pool: Pool) -> None:
        with pool.staging_file() as path:
            assert path.read_bytes() == b""
            path.write_bytes(b"spooled")
            assert pool.sweep_staging() == open_pool(pool.spec()).sweep_staging() == 0
            assert path.read_bytes() == b"spooled"
        assert not path.exists()

    def test_staging_file_of_a_dead_process_is_swept(self, pool: Pool) -> None:
        died = in_fresh_process(pool, "answer(str((file := pool.staging_file()).__enter__()))", "os._exit(0)")
        path = Path(str(died))
        assert path.exists()
        assert pool.sweep_staging() == 1
        assert not path.exists()

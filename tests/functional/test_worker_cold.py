# SPDX-License-Identifier: Apache-2.0
"""Reads of data that is not in the page cache: the right bytes, from any number of clients, and no stall."""

import os
import random
import threading
import time

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.disk import Disk
from tests.disks import TINY, USUAL, frozen, make_pool, make_spec
from tests.filesystems import mounted
from tests.servers import Served

MIB = 1 << 20
SIZE = 64 * MIB


def content_of(size):
    """Each 4 KiB block begins with its number."""
    rest = os.urandom(4088)
    return b"".join(number.to_bytes(8, "big") + rest for number in range(size // 4096))


def drop_caches(*folders):
    """Forget what the page cache holds of the files of a pool."""
    os.sync()
    for folder in folders:
        for path in (each for each in folder.rglob("*") if each.is_file()):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


@pytest.fixture(params=[False, True], ids=["live", "frozen"])
def served(tmp_path, request):
    """A Fisk over two layers, blocks of both mixed, all of it cold."""
    pool = make_pool(tmp_path / "pool")
    content = bytearray(content_of(SIZE))
    base = make_spec(pool, SIZE, USUAL)
    with Disk.open(pool, base) as disk:
        disk.write(0, content)
    spec = make_spec(pool, SIZE, USUAL, base=base.map_id)
    with Disk.open(pool, spec) as disk:
        for start in range(0, SIZE, 5 * 4096):
            content[start + 8 : start + 4096] = b"n" * 4088
            disk.write(start, content[start : start + 4096])
    drop_caches(tmp_path / "pool")
    with Served(frozen(spec) if request.param else spec, tmp_path) as served:
        served.content, served.pool_path = content, tmp_path / "pool"
        yield served


def read_randomly(served, seed, lengths, count, failures):
    chance = random.Random(seed)
    ranges = []
    for _ in range(count):
        length = chance.choice(lengths)
        ranges.append((chance.randrange((SIZE - length) // 512) * 512, length))
    try:
        with served.connect(depth=32) as client:
            for offset, data in client.read_many(ranges):
                if data != served.content[offset : offset + len(data)]:
                    failures.append(offset)
    except BaseException as exc:
        failures.append(exc)
        raise


@pytest.mark.parametrize(
    "lengths", [[4096], [512, 4096, 20_000, 65_536], [70_000, MIB, 3 * MIB]], ids=["small", "mixed", "large"]
)
def test_random_reads_at_depth_by_eight_clients(served, lengths):
    failures = []
    count = 600 if max(lengths) < MIB else 20
    threads = [
        threading.Thread(target=read_randomly, args=(served, seed, lengths, count, failures))
        for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        drop_caches(served.pool_path / "layers")
        time.sleep(0.05)
    assert not failures


def test_sequential_reads(served):
    for length in (4096, 128 << 10, 4 * MIB):
        drop_caches(served.pool_path / "layers")
        with served.connect(depth=8) as client:
            ranges = [(at, length) for at in range(0, 16 * MIB, length)]
            for offset, data in client.read_many(ranges):
                assert data == served.content[offset : offset + length]


def test_a_thousand_cold_reads_in_one_send_and_a_goodbye(served):
    with served.raw() as raw:
        offsets = random.Random(1).sample(range(0, SIZE, 4096), 1000)
        parts = [p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, at, at, 4096) for at in offsets]
        raw.lengths = {at: (at, 4096) for at in offsets}
        raw.sock.sendall(b"".join(parts) + p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_DISC, 0, 0, 0))
        for _ in offsets:
            reply = raw.reply()
            assert reply.data == served.content[reply.cookie : reply.cookie + 4096]
        assert raw.at_end()


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("length", [4096, 64 << 10, 4 * MIB, 32 * MIB])
def test_a_client_that_does_not_take_its_cold_reads(served, structured, length):
    """All at once, uncached: the answers of a few may wait in memory, not those of all."""
    with served.raw(structured=structured) as raw:
        before = served.resident()
        raw.sock.settimeout(0.5)
        for number in range(9000):
            offset = number * length % (SIZE - length + 1) // 512 * 512
            try:
                raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, number, offset, length))
            except TimeoutError:
                break
        for _ in range(5):
            time.sleep(0.05)
            assert served.resident() - before < 200 * MIB
    with served.raw() as raw:
        assert raw.get(0, 4096) == served.content[:4096]


def test_parts_of_cold_blocks_are_written(served):
    with served.connect(depth=32) as client:
        if client.read_only:
            return
        chance = random.Random(4)
        items = []
        for _ in range(500):
            offset, length = chance.randrange(SIZE - 9000), chance.randrange(1, 9000)
            data = chance.randbytes(length)
            items.append((offset, data))
        for offset, data in items:  # one after the other: they overlap
            client.submit_write(offset, data).result()
            served.content[offset : offset + len(data)] = data
            if chance.random() < 0.05:
                drop_caches(served.pool_path / "layers")
        client.zero(SIZE // 2 + 100, MIB)
        wanted = served.content[: SIZE // 2 + 100] + bytes(MIB) + served.content[SIZE // 2 + 100 + MIB :]
        assert client.read(0, SIZE) == wanted


def test_hot_requests_do_not_wait_for_cold_ones(served):
    failures, stop = [], threading.Event()

    def cold():
        seed = 0
        while not stop.is_set():
            seed += 1
            read_randomly(served, seed, [4096, MIB], 100, failures)
            drop_caches(served.pool_path / "layers")

    thread = threading.Thread(target=cold)
    with served.raw() as raw:
        raw.get(0, 4096)
        thread.start()
        worst = 0.0
        for _ in range(100):
            started = time.monotonic()
            raw.call(p.CMD_FLUSH)
            worst = max(worst, time.monotonic() - started)
            time.sleep(0.002)
        stop.set()
        thread.join()
    assert not failures
    assert worst < 2


@pytest.mark.parametrize("geometry", [TINY, USUAL], ids=["tiny", "usual"])
@pytest.mark.parametrize("fstype", ["tmpfs", "ramfs"])
def test_pools_that_cannot_say_what_is_cached(tmp_path, fstype, geometry):
    size = 4 * MIB
    content = bytearray(content_of(size))
    with mounted(fstype, 64 * MIB if fstype == "tmpfs" else 0, tmp_path) as folder:
        spec = make_spec(make_pool(folder / "pool"), size, geometry)
        with Served(spec, tmp_path) as served:  # noqa: SIM117 - unmounted only when it ended
            with served.connect(depth=16) as client:
                client.write_many((at, content[at : at + 4096]) for at in range(0, size, 4096))
                for offset, length in ((1, 5), (4000, 300), (MIB + 3, 100_001), (700, 4096)):
                    client.write(offset, b"p" * length)
                    content[offset : offset + length] = b"p" * length
                client.zero(5000, 10_000)
                content[5000:15_000] = bytes(10_000)
                client.flush()
                for length in (512, 4096, 65_536, MIB):
                    for offset, data in client.read_many((at, length) for at in range(0, size, length)):
                        assert data == content[offset : offset + length]
                assert client.read(3, size - 10) == content[3 : size - 7]

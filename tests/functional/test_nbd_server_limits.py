# SPDX-License-Identifier: Apache-2.0
"""Many clients, slow clients, clients that want too much: memory stays bounded and the others go on."""

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fisk_core.dataplane import protocol as p
from tests.disks import USUAL, make_pool, make_spec
from tests.servers import Raw, Served, patched_worker
from tests.waiting import open_files, settled

SIZE = 64 << 20
MIB = 1 << 20
BOUND = 200 * MIB
"""what one client may make a worker hold, generously: a few of the largest requests"""


@pytest.fixture
def served(tmp_path):
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path) as served:
        with served.raw() as raw:
            for start in range(0, SIZE, 32 * MIB):
                assert raw.write(start, os.urandom(MIB) * 32) == 0
            assert raw.call(p.CMD_FLUSH).error == 0
        yield served


def ask(raw, kind, length, count, payload=b"", flags=0):
    """Send requests until the server takes no more; gives how many were sent."""
    raw.sock.settimeout(0.5)
    for number in range(count):
        offset = number * length % (SIZE - length + 1) // 4096 * 4096
        head = p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, number, offset, length)
        try:
            raw.sock.sendall(head + payload)
        except TimeoutError:
            return number
    return count


def quick(served):
    """Another client gets its answers in time."""
    with served.raw(structured=True) as other:
        started = time.monotonic()
        for number in range(200):
            assert other.write(number * 4096, b"q" * 4096) == 0
            assert other.get(number * 4096, 4096) == b"q" * 4096
        return time.monotonic() - started < 5


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(
    ("length", "count"),
    [(4096, 200_000), (64 << 10, 20_000), (65 << 10, 20_000), (MIB, 2000), (32 * MIB, 100)],
)
def test_a_client_that_never_reads_its_replies(served, structured, length, count):
    with served.raw(structured=structured) as raw:
        before = served.resident()
        ask(raw, p.CMD_READ, length, count)
        assert served.resident() - before < BOUND
        assert quick(served)
        assert served.resident() - before < BOUND


@pytest.mark.parametrize("length", [64 << 10, 32 * MIB])
def test_reads_of_holes_and_scattered_data_that_are_never_taken(tmp_path, length):
    """These cannot be sent straight from a file."""
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE), tmp_path) as served, served.raw() as raw:
        for block in range(0, 4000, 2):
            raw.write(block * 512, b"x" * 512)
        before = served.resident()
        ask(raw, p.CMD_READ, length, 20_000)
        assert served.resident() - before < BOUND


def test_many_clients_that_take_no_answers_share_what_one_may_hold():
    """On a file system that cannot tell what is cached: answers are fetched before they can be sent."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, contextlib.ExitStack() as stack:
        served = stack.enter_context(Served(make_spec(make_pool(Path(name) / "pool"), SIZE), Path(name)))
        with served.raw() as raw:
            raw.write(0, b"x" * 512)
        before = served.resident()
        for _ in range(16):
            raw = stack.enter_context(served.raw())
            heads = (p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, at, 0, 2 * MIB) for at in range(50))
            raw.sock.sendall(b"".join(heads))
        assert quick(served)
        assert served.resident() - before < 400 * MIB


_SLOW_AND_NARROW = """
import time
from fisk_core.dataplane import cold, connection
connection.MAX_KEPT = 3 << 20
fill = cold.fill
cold.fill = lambda *arguments: (time.sleep(0.5), fill(*arguments))[1]
"""


def test_a_client_that_others_made_wait_is_served_when_its_own_answers_are_sent():
    """What all may hold ran out between two of its requests, and no event of its own told it so."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, contextlib.ExitStack() as stack:
        path, spec = Path(name) / "nbd", make_spec(make_pool(Path(name) / "pool"), SIZE)
        with Served(spec, Path(name)) as served, served.raw() as raw:
            raw.write(0, b"x" * 512)
        stack.enter_context(patched_worker(spec, path, _SLOW_AND_NARROW))
        one, other = (stack.enter_context(Raw(str(path))) for _ in range(2))
        one.send(p.CMD_READ, 0, 2 * MIB)
        time.sleep(0.1)
        other.send(p.CMD_READ, 0, 2 * MIB)
        time.sleep(0.1)
        one.send(p.CMD_READ, 0, 512)
        assert len(one.reply().data) == 2 * MIB
        assert one.reply().data == b"x" * 512


def test_an_announced_write_takes_no_memory(served):
    before = served.resident()
    with contextlib.ExitStack() as stack:
        for number in range(30):
            raw = stack.enter_context(served.raw())
            raw.send(p.CMD_WRITE, 1, 32 * MIB - number, payload=bytes(100))
            raw.sock.sendall(bytes(200_000))
        assert quick(served)
        assert served.resident() - before < 60 * MIB


@pytest.mark.parametrize("kind", [p.CMD_FLUSH, p.CMD_WRITE_ZEROES, p.CMD_BLOCK_STATUS])
def test_answers_without_data_that_are_never_taken(served, kind):
    with served.raw(structured=True, contexts=(p.CONTEXT_ALLOCATION,)) as raw:
        before = served.resident()
        ask(raw, kind, 4096, 200_000)
        assert served.resident() - before < BOUND
        assert quick(served)


def test_a_client_that_sends_its_data_slowly(served):
    with served.raw() as slow:
        for kind in range(8):
            length = (kind + 1) * 100_000 + 4096
            slow.send(p.CMD_WRITE, 32 * MIB, length, payload=b"s" * 5000)
            assert quick(served)
            slow.sock.sendall(b"s" * (length - 5000))
            assert slow.reply().error == 0
            assert slow.get(32 * MIB, length) == b"s" * length


def test_memory_returns_after_the_largest_requests(served):
    with served.raw() as raw:
        before = served.resident()
        for _ in range(3):
            raw.write(1, bytes(32 * MIB))
            assert len(raw.get(1, 32 * MIB)) == 32 * MIB
        raw.write(0, b"x")
        assert served.resident() - before < 40 * MIB
    assert quick(served)
    assert served.resident() - before < 40 * MIB


def test_sixteen_connections(served):
    """Each writes and reads a range of its own, and all see what the others flushed."""
    failures = []

    def work(number):
        try:
            with served.connect(depth=16) as client:
                start = number * MIB
                for turn in range(5):
                    client.write_many((start + at * 4096, bytes([number, turn]) * 2048) for at in range(256))
                    ranges = [(start + at * 8192, 8192) for at in range(128)]
                    for _, data in client.read_many(ranges):
                        assert data == bytes([number, turn]) * 4096
                    client.flush()
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with served.connect() as client:
        assert client.read(0, 16 * MIB) == b"".join(bytes([number, 4]) * (MIB // 2) for number in range(16))


def test_a_write_answered_on_one_connection_is_seen_on_all(served):
    with served.raw() as one, served.raw() as two:
        for number in range(200):
            data = number.to_bytes(2, "big") * 2048
            assert (one if number % 2 else two).write(4096, data) == 0
            assert (two if number % 2 else one).get(4096, 4096) == data


def test_a_hundred_reconnections_leave_nothing_behind(served):
    for _ in range(3):
        served.raw().close()
    before, memory = open_files(served.pid), served.resident()
    for _ in range(100):
        with served.raw(structured=True) as raw:
            assert len(raw.get(0, MIB)) == MIB
    assert quick(served)
    settled(served.pid, before + 1)  # a mapped file has a descriptor of its own
    assert served.resident() - memory < 20 * MIB


def test_a_client_that_leaves_with_replies_unsent(served):
    for _ in range(5):
        with served.raw() as raw:
            ask(raw, p.CMD_READ, MIB, 500)
    with served.raw() as raw:
        ask(raw, p.CMD_WRITE, 4096, 500, bytes(4096), p.CMD_FLAG_FUA)
    assert quick(served)


def test_a_worker_does_not_spin_for_a_client_that_left_while_it_was_paused(served):
    def ticks():
        with open(f"/proc/{served.pid}/stat") as stat:
            return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))

    with served.raw() as raw:
        served.control("pause")
        ask(raw, p.CMD_READ, 4096, 10)
    before = ticks()
    time.sleep(0.5)
    assert ticks() - before < 25
    served.control("resume")
    assert quick(served)

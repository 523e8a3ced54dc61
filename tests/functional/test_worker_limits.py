# SPDX-License-Identifier: Apache-2.0
"""Limits, classes and metrics of a real worker, by what clients sent and got; nothing here measures time."""

import fcntl
import os
import termios
import time
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.metrics import BOUNDS
from fisk_core.errors import InvalidValue
from tests.disks import USUAL, frozen, make_pool, make_spec
from tests.servers import Served
from tests.waiting import until

SIZE = 8 << 20
BLOCK = 4096
NEVER = {"qos.total_iops": "1", "qos.total_iops_burst": "1"}
"""one request, and the next only after a second"""


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def serve(pool, tmp_path):
    """Start a worker of a new Fisk with these attributes."""
    running = []

    def start(size=SIZE, **attributes):
        spec = make_spec(pool, size, USUAL)
        given = {key.replace("__", "."): value for key, value in attributes.items()}
        served = Served(replace(spec, attributes=given), tmp_path)
        served.start()
        running.append(served)
        return served

    yield start
    for served in running:
        served.stop()


def metrics(served):
    return served.control("metrics")["metrics"]


def act_upon(served, **attributes):
    given = {key.replace("__", "."): value for key, value in attributes.items()}
    served.control("attributes", attributes=given)


def ask(client, count, kind=p.CMD_READ):
    """Send requests of one block in one piece, waiting for no answer."""
    payload, parts = b"w" * BLOCK if kind == p.CMD_WRITE else b"", []
    for offset in range(0, count * BLOCK, BLOCK):
        client.cookie += 1
        client.lengths[client.cookie] = offset % SIZE, BLOCK if kind == p.CMD_READ else 0
        parts += p.REQUEST.pack(p.REQUEST_MAGIC, 0, kind, client.cookie, offset % SIZE, BLOCK), payload
    client.sock.sendall(b"".join(parts))


def answers(client, count):
    for _ in range(count):
        assert client.reply().error == 0


def answered(client):
    """Give how many simple replies with 512 bytes lie in the client's socket."""
    waiting = array("i", [0])
    fcntl.ioctl(client.sock, termios.FIONREAD, waiting)
    return waiting[0] // (p.SIMPLE_REPLY.size + 512)


# Metrics


def test_metrics_are_what_a_client_sent(serve):
    served = serve()
    with served.raw(structured=True) as client:
        ask(client, 100, p.CMD_WRITE)
        ask(client, 150)
        answers(client, 250)
        for length in (512, 3 * BLOCK, 300 << 10, 2 << 20):
            assert client.write(1024, b"x" * length) == 0
            assert len(client.get(512, length)) == length
        assert client.write(0, b"f" * BLOCK, p.CMD_FLAG_FUA) == 0
        assert client.call(p.CMD_FLUSH).error == 0
        assert client.call(p.CMD_TRIM, 0, 2 * BLOCK).error == 0
        assert client.call(p.CMD_WRITE_ZEROES, 100, 9000).error == 0
        assert client.call(p.CMD_CACHE, 0, BLOCK).error == 0
        assert client.call(p.CMD_READ, SIZE, BLOCK).error
        assert client.write(SIZE - 512, b"x" * BLOCK)
        assert client.call(99).error
        found = metrics(served)
        assert found["connections"] == 1
    lengths = 512 + 3 * BLOCK + (300 << 10) + (2 << 20)
    wanted = {"reads": 154, "writes": 105, "flushes": 1, "trims": 1, "zeroes": 1, "errors": 3}
    assert wanted == {key: found[key] for key in wanted}
    assert found["read_bytes"] == 150 * BLOCK + lengths
    assert found["write_bytes"] == 101 * BLOCK + lengths
    latency = found["latency"]
    assert latency["bounds"] == list(BOUNDS)
    for name, count in (("read", 154), ("write", 105), ("flush", 1)):
        assert sum(latency[name]) == count
        assert len(latency[name]) == len(BOUNDS) + 1
        assert 0 < latency[f"{name}_sum"] < 60
    assert found["throttled"] == found["queue"] == 0
    assert found["map"]["layers"] == 1
    assert found["map"]["pages"] == SIZE // USUAL.page_size
    assert found["map"]["bytes"] > 0
    resident = found["cache"]["bytes_resident"]
    assert resident is None or 0 < resident <= SIZE


def test_cold_reads_are_counted_with_their_latency(serve, pool):
    served = serve()
    with served.raw() as client:
        for at in range(0, SIZE, 1 << 20):
            assert client.write(at, os.urandom(1 << 20)) == 0
        assert client.call(p.CMD_FLUSH).error == 0
        layer = next(path for path in Path(pool.options["path"], "layers").rglob("*") if path.is_file())
        fd = os.open(layer, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        for number in range(64):
            client.send(p.CMD_READ, number * 17 * BLOCK % SIZE, BLOCK)
        answers(client, 64)
        assert len(client.get(0, 1 << 20)) == 1 << 20
    found = metrics(served)
    assert found["reads"] == sum(found["latency"]["read"]) == 65
    assert found["read_bytes"] == 64 * BLOCK + (1 << 20)
    assert found["cold_reads"] <= 65


def test_changes_not_yet_durable_are_told(serve):
    served = serve()
    with served.raw() as client:
        ask(client, 30, p.CMD_WRITE)
        answers(client, 30)
        until(lambda: metrics(served)["map"]["dirty_blocks"] == 30)
        assert client.call(p.CMD_FLUSH).error == 0
        until(lambda: metrics(served)["map"]["dirty_blocks"] == 0)


# Limits


@pytest.mark.parametrize("kind", [p.CMD_READ, p.CMD_WRITE])
def test_what_is_over_the_limit_waits_and_is_answered_once_it_is_lifted(serve, kind):
    served = serve(qos__total_iops="1", qos__total_iops_burst="5")
    with served.raw() as client:
        ask(client, 20, kind)
        answers(client, 5)
        until(lambda: metrics(served)["queue"] > 0)
        found = metrics(served)
        assert found["reads"] + found["writes"] < 20
        act_upon(served)
        answers(client, 15)
        found = metrics(served)
        assert found["reads"] + found["writes"] == 20
        assert found["throttled"] > 0
        assert found["queue"] == 0


def test_a_limit_holds_from_when_it_is_set(serve):
    served = serve()
    with served.raw() as client:
        ask(client, 500)
        answers(client, 500)
        act_upon(served, **NEVER)
        ask(client, 40)
        answers(client, 1)
        until(lambda: metrics(served)["queue"] > 0)
        act_upon(served, qos__total_iops="100000")
        answers(client, 39)


def test_reads_are_not_held_back_by_a_limit_of_writes(serve):
    served = serve(qos__write_iops="1", qos__write_iops_burst="1")
    with served.raw() as reader, served.raw() as writer:
        ask(writer, 10, p.CMD_WRITE)
        answers(writer, 1)
        until(lambda: metrics(served)["queue"] > 0)
        ask(reader, 300)
        answers(reader, 300)
        assert reader.call(p.CMD_FLUSH).error == 0
        assert metrics(served)["writes"] < 10


def test_large_writes_are_paid_for_by_their_bytes(serve):
    """One larger than the bucket passes while that is full; what comes behind it waits."""
    served = serve(qos__write_bytes="1000", qos__write_bytes_burst="1000")
    with served.raw() as client:
        assert client.write(0, b"a" * (1 << 20)) == 0
        client.send(p.CMD_WRITE, 0, 4 * BLOCK, payload=b"b" * 4 * BLOCK)
        ask(client, 1)
        until(lambda: metrics(served)["queue"] > 0)
        assert metrics(served)["writes"] == 1
        act_upon(served)
        answers(client, 2)
        assert client.get(BLOCK, BLOCK) == b"b" * BLOCK
        assert client.get(4 * BLOCK, BLOCK) == b"a" * BLOCK


@pytest.mark.parametrize("size", [3 * BLOCK, 100 << 10, 300 << 10, (1 << 20) + 512])
def test_limited_writes_of_any_size_arrive_whole(serve, size):
    served = serve(qos__total_iops="2000", qos__total_bytes=str(200 << 20))
    with served.raw() as client:
        for number in range(12):
            client.send(p.CMD_WRITE, number * 700, size, payload=bytes([65 + number]) * size)
            client.send(p.CMD_READ, number * 700, BLOCK)
        for number in range(12):
            assert client.reply().error == 0
            assert client.reply().data == bytes([65 + number]) * BLOCK
        assert client.get(11 * 700, size) == b"L" * size
        found = metrics(served)
        assert (found["writes"], found["write_bytes"]) == (12, 12 * size)


def test_two_connections_share_a_limit_however_much_they_ask(serve):
    """Both have more lying ready than passes, one of them twice as much: each gets as much as the other."""
    served = serve(**NEVER)
    with served.raw() as deep, served.raw() as shallow:
        for client, count in ((deep, 4000), (shallow, 2000)):
            read = [p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, cookie, 0, 512) for cookie in range(count)]
            client.sock.sendall(b"".join(read))
        until(lambda: metrics(served)["queue"] > 5900)
        act_upon(served, qos__total_iops="500", qos__total_iops_burst="10")
        until(lambda: metrics(served)["reads"] > 150)
        act_upon(served, **NEVER)
        assert abs(answered(deep) - answered(shallow)) < 10


def test_a_throttled_client_that_goes_away_is_forgotten(serve):
    served = serve(**NEVER)
    with served.raw() as client, served.raw() as other:
        ask(client, 100)
        answers(client, 1)
        ask(other, 2)
        client.close()
        until(lambda: metrics(served)["connections"] == 1)
        act_upon(served)
        answers(other, 2)


def test_memory_of_throttled_clients_is_bounded(serve):
    served = serve(**NEVER)
    with served.raw() as client:
        ask(client, 1)
        answers(client, 1)
        client.sock.settimeout(0.5)
        before = served.resident()
        write = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 65536) + bytes(65536)
        with pytest.raises(TimeoutError):
            client.sock.sendall(write * 200)
        assert served.resident() - before < 2 << 20


def test_a_request_that_is_none_ends_a_limited_connection_too(serve):
    served = serve(qos__total_iops="100")
    with served.raw() as client:
        client.send(p.CMD_READ, 0, 512, magic=7)
        assert client.sock.recv(1) == b""


def test_too_large_a_write_is_refused_and_the_connection_goes_on(serve):
    served = serve(qos__total_iops="1000")
    with served.raw() as client:
        length = p.MAX_REQUEST + 512
        assert client.write(0, bytes(length)) == p.EINVAL
        assert client.works()


def stream(client, random, region, oracle):
    """Have requests of all kinds and sizes answered, several at once, on a range of its own; counts them."""
    (base, length), wanted = region, Counter()
    for _ in range(60):
        asked = []
        for _ in range(random.randint(1, 12)):
            size = random.choice([512, BLOCK, 9000, 70_000, 200_000, 400_000])
            at = random.randint(0, length - size)
            kind = random.choice([p.CMD_READ, p.CMD_WRITE, p.CMD_WRITE, p.CMD_WRITE_ZEROES, p.CMD_FLUSH])
            data = random.randbytes(size) if kind == p.CMD_WRITE else b""
            # Requests that are under way together may be carried out in any order: none may touch another's.
            if kind != p.CMD_FLUSH and any(at < stop and start < at + size for start, stop, _ in asked):
                continue
            wanted[kind] += 1
            if kind == p.CMD_FLUSH:
                client.send(kind)
                asked.append((0, 0, None))
                continue
            client.send(kind, base + at, size, payload=data)
            expected = bytes(oracle[at : at + size]) if kind == p.CMD_READ else None
            asked.append((at, at + size, (client.cookie, expected)))
            if kind != p.CMD_READ:
                oracle[at : at + size] = data or bytes(size)
        reads = {each[0]: each[1] for *_, each in asked if each}
        for _ in asked:
            reply = client.reply()
            assert reply.error == 0
            if reads.get(reply.cookie) is not None:
                assert reply.data == reads[reply.cookie]
    return wanted


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_or_mixed_up_while_limits_come_and_go(serve, seed):
    served = serve(size=4 << 20)
    oracles = [bytearray(1 << 20) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        jobs = []
        for number, oracle in enumerate(oracles):
            client = stack.enter_context(served.raw(structured=number == 1))
            random = Random(f"{seed} {number}")
            region = number << 20, 1 << 20
            jobs.append(pool.submit(stream, client, random, region, oracle))
        random = Random(seed)
        while not all(job.done() for job in jobs):
            names = random.sample(("read_iops", "write_iops", "total_iops"), random.randint(0, 2))
            limits = {f"qos__{name}": str(random.randint(50, 1000)) for name in names}
            if random.random() < 0.5:
                limits["qos__total_bytes"] = str(random.randint(8, 90) << 20)
            act_upon(served, **limits)
            time.sleep(0.02)
        wanted = sum((job.result() for job in jobs), Counter())
    act_upon(served)
    found = metrics(served)
    kinds = {"reads": p.CMD_READ, "writes": p.CMD_WRITE, "flushes": p.CMD_FLUSH, "zeroes": p.CMD_WRITE_ZEROES}
    assert {name: found[name] for name in kinds} == {name: wanted[kind] for name, kind in kinds.items()}
    with served.raw() as client:
        assert client.get(0, 3 << 20) == b"".join(oracles)


# Attributes


def test_other_attributes_are_refused_and_change_nothing(serve):
    served = serve()
    for attributes in ({"class": "gold"}, {"qos.read_iops": "no"}, ["class"]):
        with pytest.raises(InvalidValue):
            served.control("attributes", attributes=attributes)
    assert served.control("status")["attributes"] == {}


def test_stored_attributes_nobody_knows_do_not_keep_a_fisk_from_being_used(serve):
    served = serve(qos__wings="2")
    with served.raw() as client:
        assert client.works()


# Classes


@pytest.mark.parametrize("name", ["latency", "throughput", "background", "scratch"])
def test_every_class_serves_and_may_be_changed(serve, name):
    served = serve(**{"class": name})
    with served.raw() as client:
        ask(client, 50, p.CMD_WRITE)
        answers(client, 50)
        act_upon(served)
        act_upon(served, **{"class": name})
        ask(client, 50)
        answers(client, 50)
        for at in range(0, SIZE, 1 << 20):
            client.get(at, 1 << 20)


def test_scratch_answers_flushes_without_making_anything_durable(serve, pool):
    served = serve(**{"class": "scratch"})
    with served.raw() as client:
        for _ in range(3):
            assert client.write(0, b"a" * BLOCK, p.CMD_FLAG_FUA) == 0
            assert client.call(p.CMD_FLUSH).error == 0
        found = metrics(served)
        assert (found["flushes"], found["writes"], found["syncs"]) == (3, 3, 0)
    served.stop()
    with Disk.open(pool, frozen(served.spec)) as disk:
        assert disk.read(0, BLOCK) == b"a" * BLOCK  # an orderly stop loses nothing


def test_scratch_loses_what_it_acknowledged_when_its_worker_is_killed(serve, pool):
    served = serve(**{"class": "scratch"})
    with served.raw() as client:
        assert client.write(0, b"a" * BLOCK) == 0
        assert client.call(p.CMD_FLUSH).error == 0
    served.kill()
    with Disk.open(pool, frozen(served.spec)) as disk:
        assert disk.read(0, BLOCK) == bytes(BLOCK)


def test_leaving_scratch_makes_durable_what_was_acknowledged(serve, pool):
    served = serve(**{"class": "scratch"})
    with served.raw() as client:
        assert client.write(0, b"a" * BLOCK) == 0
        assert client.call(p.CMD_FLUSH).error == 0
        act_upon(served)
        assert metrics(served)["syncs"] == 1
    served.kill()
    with Disk.open(pool, frozen(served.spec)) as disk:
        assert disk.read(0, BLOCK) == b"a" * BLOCK


def test_background_is_nice_and_is_so_no_more_afterwards(serve):
    served = serve()

    def niceness():
        return {int(Path(f"/proc/{served.pid}/task/{each}/stat").read_text().split(") ")[1].split()[16])
                for each in os.listdir(f"/proc/{served.pid}/task")}  # fmt: skip

    usual = niceness()
    act_upon(served, **{"class": "background"})
    assert niceness() in ({value + 10 for value in usual}, usual)  # the same where there would be no way back
    act_upon(served)
    assert niceness() == usual


def test_metrics_and_attributes_survive_a_new_map(serve, pool):
    """A worker that is told of another map goes on counting, and keeps class and limits."""
    served = serve(**{"class": "latency", "qos.total_iops": "5000"})
    with served.raw() as client:
        ask(client, 20)
        answers(client, 20)
        other = make_spec(pool, SIZE, USUAL)
        served.control("switch", spec=asdict(replace(other, fisk_id=served.spec.fisk_id)))
        ask(client, 20)
        answers(client, 20)
    assert metrics(served)["reads"] == 40
    assert served.control("status")["attributes"] == {"class": "latency", "qos.total_iops": "5000"}

# SPDX-License-Identifier: Apache-2.0
"""Changes of what a worker serves while clients use it: snapshots, reverts, growth, pauses, the end."""

import json
import os
import select
import signal
import socket
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fisk_core.blockmap import LogHeader, consolidate, create_log
from fisk_core.dataplane import control
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.disk import Disk
from fisk_core.errors import Corrupt, FiskError, InUse, InvalidValue, NotFound
from fisk_core.pools.base import Kind
from tests.disks import TINY, USUAL, frozen, make_disk, make_pool, make_spec, new_id
from tests.servers import Raw, Served, patched_worker
from tests.waiting import until

SIZE = 8 << 20
BLOCKS = 64
BLOCK = 4096
MIB = 1 << 20


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def served(pool, tmp_path):
    with Served(make_spec(pool, SIZE, USUAL), tmp_path) as served:
        yield served


def next_period(pool, spec, size=None):
    """Begin a period on top of ``spec``, which becomes a snapshot once it is switched to."""
    map_id, geometry = new_id(), TINY if spec.block_size == 512 else USUAL
    create_log(pool, LogHeader(map_id, spec.map_id, spec.fisk_id, spec.size, geometry))
    return replace(spec, map_id=map_id, size=size or spec.size)


def switch(served, spec):
    served.control("switch", spec=asdict(spec))
    served.spec = spec


def content(pool, spec):
    with Disk.open(pool, frozen(spec)) as disk:
        return disk.read(0, disk.size)


class Stamper(threading.Thread):
    """Writes 1, 2, 3 … over BLOCKS blocks of its own, in order, several at once, until told to stop.

    Writes may overtake each other only within one batch, which ends with an answer to each of them.
    """

    def __init__(self, served, number):
        super().__init__()
        self.client = served.connect(depth=8)
        self.start_at = number * BLOCKS * 4096
        self.done, self.longest, self.failure = 0, 0.0, None
        self.stopping = threading.Event()

    def run(self):
        try:
            with self.client:
                while not self.stopping.is_set():
                    began = time.monotonic()
                    batch = range(self.done + 1, self.done + 9)
                    self.client.write_many(
                        (self.start_at + number % BLOCKS * 4096, number.to_bytes(8, "big") * 512)
                        for number in batch
                    )
                    self.done = batch[-1]
                    self.longest = max(self.longest, time.monotonic() - began)
        except BaseException as exc:
            self.failure = exc

    def check(self, data):
        """One moment: the newest stamp n of a block implies everything before n's batch; gives n."""
        stamps = []
        for at in range(BLOCKS):
            block = data[self.start_at + at * 4096 :][:4096]
            assert block == block[:8] * 512, "a block is torn"
            stamps.append(int.from_bytes(block[:8], "big"))
        newest = max(stamps)
        batch = (newest - 1) // 8 * 8  # everything up to here was answered before newest was sent
        for at, stamp in enumerate(stamps):
            assert stamp == 0 or stamp % BLOCKS == at
            wanted = max(
                (n for n in range(max(1, batch - BLOCKS + 1), batch + 1) if n % BLOCKS == at), default=0
            )
            assert stamp >= wanted, "a write is there, one answered before it is not"
        return newest


def test_a_snapshot_under_load_is_one_moment(pool, served):
    stampers = [Stamper(served, number) for number in range(3)]
    for stamper in stampers:
        stamper.start()
    snapshots = []
    for _ in range(15):
        time.sleep(0.03)
        before = [stamper.done for stamper in stampers]
        old = served.spec
        switch(served, next_period(pool, old))
        snapshots.append((old, before, [stamper.done for stamper in stampers]))
    for stamper in stampers:
        stamper.stopping.set()
        stamper.join()
        assert stamper.failure is None
    newest = [0] * 3
    for spec, before, after in snapshots:
        data = content(pool, spec)
        found = [stamper.check(data) for stamper in stampers]
        assert all(low <= value <= high + 8 for low, value, high in zip(before, found, after, strict=True))
        assert all(one >= two for one, two in zip(found, newest, strict=True))
        newest = found
    assert newest[0] > 100
    assert max(stamper.longest for stamper in stampers) < 5
    served.stop()
    data = content(pool, served.spec)
    assert [stamper.check(data) for stamper in stampers] == [stamper.done for stamper in stampers]


def test_a_snapshot_is_durable_when_the_switch_is_answered(pool, served):
    with served.raw() as raw:
        raw.write(0, b"before" * 1000)
        old = served.spec
        switch(served, next_period(pool, old))
        raw.write(0, b"after!" * 1000)
        served.kill()
    assert content(pool, old)[:6000] == b"before" * 1000
    served.start()
    with served.raw() as raw:
        assert raw.get(0, 6000) in (
            b"before" * 1000,
            b"after!" * 1000,
            b"after!" * 682 + b"afte" + b"ore" + bytes(0),
        )


def test_a_switch_may_be_repeated(pool, served):
    spec = next_period(pool, served.spec)
    with served.raw() as raw:
        for _ in range(3):
            switch(served, spec)
            assert raw.write(0, b"x") == 0
    assert served.control("status")["map_id"] == spec.map_id


def test_a_switch_to_what_is_not_there_changes_nothing(pool, served):
    with served.raw() as raw:
        raw.write(0, b"kept")
        for wrong in (
            replace(served.spec, map_id=new_id()),
            replace(served.spec, map_id=new_id(), read_only=True),
        ):
            with pytest.raises(FiskError):
                served.control("switch", spec=asdict(wrong))
            assert raw.write(4, b"more") == 0
            assert raw.get(0, 8) == b"keptmore"
    assert served.control("status")["map_id"] == served.spec.map_id


def test_a_switch_to_a_damaged_log_is_refused(pool, served, tmp_path):
    spec = next_period(pool, served.spec)
    path = next((tmp_path / "pool" / "logs").rglob(spec.map_id))
    path.write_bytes(b"x" * 512)
    with served.raw() as raw:
        with pytest.raises(Corrupt):
            switch(served, spec)
        assert raw.write(0, b"fine") == 0


def test_revert_under_a_client(pool, served):
    with served.raw() as raw:
        raw.write(0, b"old" * 2000)
        old = served.spec
        switch(served, next_period(pool, old))
        raw.write(0, b"new" * 2000)
        new = served.spec
        reverted = replace(make_spec(pool, SIZE, USUAL, base=old.map_id), fisk_id=old.fisk_id)
        switch(served, reverted)
        assert raw.get(0, 6000) == b"old" * 2000
        assert raw.write(3, b"NEW") == 0
        assert raw.get(0, 9) == b"oldNEWold"
    assert content(pool, new)[:6000] == b"new" * 2000
    assert content(pool, old)[:6000] == b"old" * 2000


def test_replacing_under_load_answers_every_request(pool, served):
    stampers = [Stamper(served, number) for number in range(2)]
    for stamper in stampers:
        stamper.start()
    first = served.spec
    switch(served, next_period(pool, first))
    for _ in range(5):
        time.sleep(0.02)
        switch(served, replace(make_spec(pool, SIZE, USUAL, base=first.map_id), fisk_id=first.fisk_id))
    for stamper in stampers:
        stamper.stopping.set()
        stamper.join()
        assert stamper.failure is None


def test_serving_a_frozen_map_in_place_of_a_live_one(pool, served):
    with served.raw() as raw:
        raw.write(0, b"data")
        switch(served, replace(served.spec, map_id=next_period(pool, served.spec).map_id))
        other = make_disk(pool, SIZE, USUAL)
        other.write(0, b"frozen")
        other.close()
        consolidate(pool, other.spec.map_id, SIZE)
        switch(served, replace(frozen(other.spec), fisk_id=served.spec.fisk_id))
        assert raw.get(0, 6) == b"frozen"
        assert raw.write(0, b"x" * 4096) == p.EPERM
        assert raw.call(p.CMD_FLUSH).error == 0


def test_growing(pool, tmp_path):
    size = (1 << 20) + 512
    with Served(make_spec(pool, size, USUAL), tmp_path) as served, served.raw() as raw:
        assert raw.write(0, b"g" * size) == 0
        assert raw.write(size, b"x") == p.ENOSPC
        served.control("resize", size=SIZE)
        assert served.control("status")["size"] == SIZE
        assert raw.get(size - 512, 4096) == b"g" * 512 + bytes(3584)
        # The layer's file may end within what is one range of the map now.
        start = size - 512 + 4096 - (128 << 10)
        assert raw.get(start, 128 << 10) == b"g" * ((128 << 10) - 3584) + bytes(3584)
        assert raw.write(SIZE - 5, b"xyzzy") == 0
        assert raw.call(p.CMD_FLUSH).error == 0
        assert raw.get(SIZE - 6, 6) == b"\0xyzzy"
        with served.connect() as client:
            assert client.size == SIZE
        with pytest.raises(InvalidValue):
            served.control("resize", size=size)
        served.kill()
        served.spec = replace(served.spec, size=SIZE)
        served.start()
        with served.raw() as again:
            assert again.get(SIZE - 6, 6) == b"\0xyzzy"


def test_pause_and_resume(served):
    with served.raw() as raw:
        served.control("pause")
        started = time.monotonic()
        raw.send(p.CMD_WRITE, 0, 4, payload=b"wait")
        raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            raw.reply()
        served.control("pause")
        served.control("resume")
        raw.sock.settimeout(10)
        assert raw.reply().error == 0
        assert time.monotonic() - started < 4
        served.control("resume")
        assert raw.get(0, 4) == b"wait"


def test_a_forgotten_pause_ends_by_itself(served):
    with served.raw() as raw:
        served.control("pause")
        started = time.monotonic()
        assert raw.get(0, 4) == bytes(4)
        assert 3 < time.monotonic() - started < 8


def test_pauses_hold_large_requests_in_the_middle(served):
    data = os.urandom(4 << 20)
    with served.raw() as raw:
        raw.send(p.CMD_WRITE, 0, len(data), payload=b"")
        raw.sock.sendall(data[: 3 << 20])
        served.control("pause")
        sender = threading.Thread(target=raw.sock.sendall, args=(data[3 << 20 :],))
        sender.start()
        time.sleep(0.1)
        served.control("resume")
        sender.join()
        assert raw.reply().error == 0
        assert raw.get(0, len(data)) == data


def test_barrier_and_status(served):
    with served.raw() as raw:
        raw.works()
        assert served.control("barrier") == {}
        status = served.control("status")
    assert status["pid"] == served.pid
    assert status["fisk_id"] == served.spec.fisk_id
    assert (status["size"], status["read_only"], status["failed"], status["connections"]) == (
        SIZE,
        False,
        None,
        1,
    )
    assert status["uri"] == served.uri


_SLOW_TO_OPEN = """
import os, time
from fisk_core.dataplane.disk import NextPeriod
usual = NextPeriod.open
def slowly(self):
    open({gate!r} + ".reached", "x").close()
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    return usual(self)
NextPeriod.open = slowly
"""


@pytest.mark.parametrize("meanwhile", ["nothing", "pause over", "grown"])
def test_clients_are_answered_while_the_files_of_the_next_period_are_made(pool, tmp_path, meanwhile):
    """And what was written until the very moment of the switch is in the snapshot, nothing else."""
    spec, gate, where = make_spec(pool, SIZE, USUAL), tmp_path / "gate", tmp_path / "ctl"
    after, refused = next_period(pool, spec), []

    def tell():
        try:
            control.call(str(where), {"op": "switch", "spec": asdict(after), "paused": meanwhile != "grown"})
        except FiskError as exc:
            refused.append(exc)

    with (
        patched_worker(spec, tmp_path / "nbd", _SLOW_TO_OPEN.format(gate=str(gate)), where),
        Raw(str(tmp_path / "nbd")) as raw,
    ):
        if meanwhile != "grown":
            control.call(str(where), {"op": "pause"})
        teller = threading.Thread(target=tell)
        teller.start()
        until(Path(f"{gate}.reached").exists)
        if meanwhile == "pause over":
            control.call(str(where), {"op": "resume"})
        elif meanwhile == "grown":
            assert raw.write(0, b"1" * BLOCK) == 0
            control.call(str(where), {"op": "resize", "size": 2 * SIZE})
        gate.touch()
        teller.join()
        if meanwhile == "nothing":
            control.call(str(where), {"op": "resume"})
        assert raw.write(BLOCK, b"2" * BLOCK) == 0
        assert raw.call(p.CMD_FLUSH).error == 0
    if meanwhile == "nothing":
        assert refused == []
        assert content(pool, spec)[: 2 * BLOCK] == bytes(2 * BLOCK)
        assert content(pool, after)[BLOCK : 2 * BLOCK] == b"2" * BLOCK
    else:
        assert [type(each) for each in refused] == [InUse]
        assert content(pool, replace(spec, size=2 * SIZE))[BLOCK : 2 * BLOCK] == b"2" * BLOCK
        assert not list(tmp_path.glob("*.new"))


def test_a_read_that_was_answered_does_not_change_on_its_way(pool, served):
    """The client takes its time; meanwhile the block is written again, then its layer punched."""
    with served.raw() as slow, served.raw() as other:
        for start in range(0, SIZE, MIB):
            assert other.write(start, b"1" * MIB) == 0
        slow.send(p.CMD_READ, 0, MIB)
        select.select([slow.sock], [], [], 20)
        assert other.write(BLOCK, b"2" * BLOCK) == 0
        assert slow.reply().data == b"1" * MIB
        slow.send(p.CMD_READ, MIB, MIB)
        select.select([slow.sock], [], [], 20)
        old = served.spec.map_id
        switch(served, next_period(pool, served.spec))
        assert other.write(MIB + BLOCK, b"2" * BLOCK) == 0
        served.control("barrier")
        with pool.open_device(Kind.LAYER, old, writable=True) as layer:  # as the collector does
            layer.discard(MIB + BLOCK, BLOCK)
        assert slow.reply().data == b"1" * MIB


@pytest.mark.parametrize("how", ["control", "signal"])
def test_stopping_makes_everything_durable(pool, served, how):
    with served.raw() as raw:
        raw.write(0, b"unflushed")
        if how == "control":
            served.control("stop")
        else:
            os.kill(served.pid, signal.SIGTERM)
        assert raw.at_end()
    served.stop()
    assert content(pool, served.spec)[:9] == b"unflushed"
    assert not os.path.exists(served.path)
    assert not os.path.exists(served.control_path)
    with pytest.raises(NotFound):
        control.call(served.control_path, {"op": "status"})


def test_control_requests_that_make_no_sense(served):
    switches = [{"op": "switch"}, {"op": "switch", "spec": {"x": 1}}]
    sizes = [{"op": "resize"}, {"op": "resize", "size": "big"}, {"op": "resize", "size": 1}]
    for request in [{"op": "fly"}, {}, {"op": ["status"]}, *switches, *sizes]:
        with pytest.raises(InvalidValue):
            control.call(served.control_path, request)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(served.control_path)
        with sock.makefile("rb") as lines:
            for line in (b"\n", b"[1]\n", b"{\n", b"\xff\xfe\n", b'{"op": "status"}\n{"op": "barrier"}\n'):
                sock.sendall(line)
                assert json.loads(lines.readline())["ok"] == (b"status" in line)
            assert json.loads(lines.readline()) == {"ok": True}
            with pytest.raises(ConnectionError):  # a line without end
                sock.sendall(b"x" * (8 << 20))
    with served.raw() as raw:
        assert raw.works()

# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed under load and started again at the same socket: nothing flushed is lost."""

import os
import random
import socket
import threading

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.errors import FiskError, InUse, InvalidValue
from tests.disks import TINY, USUAL, make_pool, make_spec
from tests.functional.test_worker_live import next_period, switch
from tests.servers import Served

SIZE = 8 << 20
BLOCKS = 100


@pytest.fixture(params=[TINY, USUAL], ids=["tiny", "usual"])
def served(tmp_path, request):
    pool = make_pool(tmp_path / "pool")
    with Served(make_spec(pool, SIZE, request.param), tmp_path) as served:
        served.pool, served.block = pool, request.param.block_size
        yield served


class Writer(threading.Thread):
    """Stamps random blocks until the worker is gone; knows what each block may hold after a crash.

    ``flushed[b]`` is the newest stamp that a flush answered for; ``given[b]`` every stamp since.
    """

    def __init__(self, served, number, flushed, given):
        super().__init__()
        self.number, self.block = number, served.block
        self.flushed, self.given = flushed, given
        self.client = served.connect(depth=4)
        self.chance = random.Random(number)
        self.stamp = max([0, *self.flushed.values(), *(s for each in given.values() for s in each)])

    def run(self):
        try:
            with self.client:
                while True:
                    self.step()
        except FiskError:
            pass  # the worker is gone

    def step(self):
        for _ in range(self.chance.randrange(1, 12)):
            block = self.number * BLOCKS + self.chance.randrange(BLOCKS)
            self.stamp += 1
            zero = self.chance.random() < 0.2
            self.given.setdefault(block, []).append(0 if zero else self.stamp)
            offset = block * self.block
            if zero:
                self.client.submit_trim(offset, self.block).result()
            else:
                fua = p.CMD_FLAG_FUA if self.chance.random() < 0.1 else 0
                data = self.stamp.to_bytes(8, "big") * (self.block // 8)
                self.client.submit_write(offset, data, fua).result()
                if fua:
                    self.settle(block)
        self.client.flush()
        for block in list(self.given):
            self.settle(block)

    def settle(self, block):
        if self.given.get(block):
            self.flushed[block] = self.given[block][-1]
            self.given[block] = []


def check(served, states):
    """Compare all blocks with what they may hold, and take what they hold from now on."""
    with served.raw() as raw:
        for flushed, given in states:
            for block in {*flushed, *given}:
                data = raw.get(block * served.block, served.block)
                assert data == data[:8] * (served.block // 8), "a block is torn"
                stamp = int.from_bytes(data[:8], "big")
                assert stamp in [flushed.get(block, 0), *given.get(block, [])]
                flushed[block], given[block] = stamp, []


def test_kill_and_restart_under_load(served):
    states = [({}, {}) for _ in range(3)]
    for turn in range(6):
        writers = [Writer(served, number, *state) for number, state in enumerate(states)]
        for writer in writers:
            writer.start()
        writers[0].join(0.1 + turn * 0.05)
        if turn % 2:
            switch(served, next_period(served.pool, served.spec))
            writers[0].join(0.02)
        served.kill()
        for writer in writers:
            writer.join()
        served.start()
        check(served, states)
    assert sum(len(flushed) for flushed, _ in states) > 50


def test_killed_again_and_again_while_it_starts(served):
    with served.raw() as raw:
        raw.write(0, b"s" * 5000)
        raw.call(p.CMD_FLUSH)
    for _ in range(5):
        served.kill()
        served.start()
    with served.raw() as raw:
        assert raw.get(0, 5000) == b"s" * 5000


def test_a_torn_large_write_leaves_whole_blocks(served):
    with served.raw() as raw:
        raw.write(0, b"a" * (4 << 20))
        raw.call(p.CMD_FLUSH)
        raw.send(p.CMD_WRITE, 0, 4 << 20)
        raw.sock.sendall(b"b" * ((2 << 20) + 700))
    with served.raw() as raw:
        data = raw.get(0, 4 << 20)
    for at in range(0, len(data), served.block):
        assert len(set(data[at : at + served.block])) == 1


def test_two_workers_do_not_share_a_socket(served):
    with pytest.raises(InUse):
        served.start()
    with served.raw() as raw:
        assert raw.works()


def test_a_stale_socket_is_taken_over(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "nbd"))
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE), tmp_path) as served, served.raw() as raw:
        assert raw.works()
        assert os.stat(served.path).st_mode & 0o777 == 0o600


def test_a_socket_path_that_is_too_long(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(InvalidValue, match="no client can connect to a path as long as"):
        Served(make_spec(make_pool(tmp_path / "pool"), SIZE), folder).start()


def test_a_fisk_without_its_log_is_not_served(tmp_path):
    pool = make_pool(tmp_path / "pool")
    spec = make_spec(pool, SIZE)
    next((tmp_path / "pool" / "logs").rglob(spec.map_id)).unlink()
    with pytest.raises(FiskError, match=spec.map_id):
        Served(spec, tmp_path).start()

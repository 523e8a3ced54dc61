# SPDX-License-Identifier: Apache-2.0
"""Workers that others succeed, and clients that know what must be on the disk."""

import random
import threading
import time
from itertools import pairwise

from fisk_core import locks
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.disk import Disk
from fisk_core.pools import open_pool
from tests.disks import frozen
from tests.servers import Forked

MIB = 1 << 20
SHARE = 2 << 20
"""bytes of the disk that one client has to itself"""


class Succeeded(Forked):
    """A worker with a lock, which others succeed."""

    def __init__(self, spec, folder, zygote):
        super().__init__(spec, folder, zygote)
        self.lock_path = folder / "lock"

    def start(self):
        lock = locks.acquire(self.lock_path)
        try:
            self._pid, [self._uri] = self._zygote.spawn(self.spec, self.options, lock.fd)
        finally:
            lock.release()

    def hand_over(self):
        old = self._pid
        self._pid, uris = self._zygote.succeed(self.control_path)
        assert uris == [self._uri]
        assert self._zygote.wait(old) == 0


def content(served):
    with Disk.open(open_pool(served.spec.pool), frozen(served.spec)) as disk:
        return disk.read(0, disk.size)


class Load(threading.Thread):
    """Writes and reads a part of the disk, many requests at a time, and knows what must be there."""

    def __init__(self, served, number, structured=False):
        super().__init__()
        self.raw = served.raw(structured=structured)
        self.random = random.Random(number)
        self.base, self.expected = number * SHARE, bytearray(SHARE)
        self.stopping = threading.Event()
        self.rounds, self.failure = 0, None

    def run(self):
        try:
            with self.raw:
                while not self.stopping.is_set():
                    self.one_round()
                    self.rounds += 1
        except BaseException as exc:
            self.failure = exc

    def one_round(self):
        """Requests that do not touch each other's bytes, then their replies, then a look at everything."""
        borders = sorted(self.random.sample(range(0, SHARE, 512), 24))
        wanted = {}
        for start, end in pairwise(borders):
            length = min(end - start, self.random.choice((512, 4096, 65536, 512 << 10)))
            kind = self.random.choice((p.CMD_WRITE, p.CMD_WRITE, p.CMD_READ, p.CMD_WRITE_ZEROES, p.CMD_FLUSH))
            flags = p.CMD_FLAG_FUA if kind == p.CMD_WRITE and self.random.random() < 0.1 else 0
            if kind == p.CMD_FLUSH:
                wanted[self.raw.send(kind)] = b""
                continue
            payload = self.random.randbytes(length) if kind == p.CMD_WRITE else b""
            cookie = self.raw.send(kind, self.base + start, length, flags, payload)
            wanted[cookie] = bytes(self.expected[start : start + length]) if kind == p.CMD_READ else b""
            if kind != p.CMD_READ:
                self.expected[start : start + length] = payload or bytes(length)
        while wanted:
            reply = self.raw.reply()
            assert (reply.error, reply.data == wanted.pop(reply.cookie)) == (0, True)
        start = self.random.randrange(0, SHARE - MIB, 512)
        assert self.raw.get(self.base + start, MIB) == self.expected[start : start + MIB]

    def finish(self):
        while self.is_alive() and self.rounds < 3:
            time.sleep(0.01)
        self.stopping.set()
        self.join(60)
        assert not self.is_alive()
        assert self.failure is None, repr(self.failure)

# SPDX-License-Identifier: Apache-2.0
"""Clients of the soak: each owns blocks of a Fisk, writes stamps, and verifies everything it reads.

What was acknowledged must be there whatever was killed; what was on its way when a connection broke may be
there or not, until a read tells.
"""

import os
import random
import signal
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_transmission import Pending
from fisk_core.errors import FiskError

BLOCK = 4096
_DEPTH = 8
_PATIENCE = 120.0
_HEAD = struct.Struct(">QQ")
_TIMES = BLOCK // _HEAD.size


def content(stamp: int, block: int) -> bytes:
    """Give what a block holds that was written with a stamp; 0 stands for zeros."""
    return _HEAD.pack(stamp, block) * _TIMES if stamp else bytes(BLOCK)


def stamp_in(data: bytes, block: int) -> int | None:
    """Give the stamp of a block, None for what is none."""
    stamp, where = _HEAD.unpack_from(data)
    right = data == content(stamp, block) and (where == block or not stamp)
    return stamp if right else None


@dataclass(frozen=True, slots=True)
class Share:
    """The blocks ``first`` to ``first + count - 1`` of a Fisk, one client's."""

    uri: str
    first: int
    count: int
    number: int


@dataclass(slots=True)
class Client:
    """One client; ``known`` says for each of its blocks which stamps it may hold."""

    share: Share
    chance: random.Random
    known: list[list[int]] = field(default_factory=list)
    client: NbdClient | None = None
    sequence: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = [[0] for _ in range(self.share.count)]

    def turn(self) -> None:
        """Ask for some things at once, each of another block, and judge the answers."""
        blocks = self.chance.sample(range(self.share.count), _DEPTH)
        asked: list[tuple[int, int | None, Pending]] = []
        sending: tuple[int, int] | None = None
        try:
            client = self._connected()
            for block in blocks:
                at = (self.share.first + block) * BLOCK
                kind = self.chance.random()
                if kind < 0.5:
                    asked.append((block, None, client.submit_read(at, BLOCK)))
                    continue
                stamp = 0
                if kind < 0.93:
                    self.sequence += 1
                    stamp = self.share.number << 48 | self.sequence
                sending = block, stamp
                if stamp:
                    data = content(stamp, self.share.first + block)
                    pending = client.submit_write(at, data, self.chance.random() < 0.03)  # FUA is flag 1
                else:
                    pending = (client.submit_zero if kind < 0.96 else client.submit_trim)(at, BLOCK)
                asked.append((block, stamp, pending))
                sending = None
            if self.chance.random() < 0.05:
                client.submit_flush()
            while asked:
                asked[0][2].wait()
                self._judge(*asked.pop(0))
        except (FiskError, OSError):
            if sending is not None:
                self.known[sending[0]].append(sending[1])
            self._lost(asked)

    def verify(self) -> None:
        """Read everything once."""
        for block in range(self.share.count):
            for _ in range(10):
                try:
                    pending = self._connected().submit_read((self.share.first + block) * BLOCK, BLOCK)
                    pending.wait()
                    break
                except (FiskError, OSError):
                    self._lost([])
            self._judge(block, None, pending)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def _connected(self) -> NbdClient:
        deadline = time.monotonic() + _PATIENCE
        while self.client is None:
            try:
                self.client = NbdClient.connect(self.share.uri, depth=4 * _DEPTH)
            except (FiskError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        return self.client

    def _lost(self, asked: list[tuple[int, int | None, Pending]]) -> None:
        """The connection is gone: what was not answered may have happened, but will not any more."""
        self.counts["connections lost"] += 1
        self.close()
        self.client = None
        for block, stamp, pending in asked:
            if pending.done:
                self._judge(block, stamp, pending)
            elif stamp is not None:
                self.known[block].append(stamp)

    def _judge(self, block: int, stamp: int | None, pending: Pending) -> None:
        if pending.error is not None:
            self.problems.append(f"client {self.share.number} block {block}: {pending.error}")
            return
        self.counts["operations"] += 1
        if stamp is not None:
            self.known[block] = [stamp]
            return
        assert pending.buffer is not None
        found = stamp_in(bytes(pending.buffer), self.share.first + block)
        self.counts["blocks verified"] += 1
        if found not in self.known[block]:
            may = [hex(each) for each in self.known[block]]
            self.problems.append(
                f"client {self.share.number}: block {self.share.first + block} holds "
                f"{'no stamp' if found is None else hex(found)}, and may hold {', '.join(may)}"
            )
        else:
            assert found is not None
            self.known[block] = [found]


def run(shares: list[Share], seed: str, rest: float, pipe: Pipe) -> None:
    """Be a process of some clients: work until told to end; tell counts and problems twice a second.

    ``rest``: seconds of every second in which nothing is asked, so that hours are not hours of full load.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    os.nice(5)
    clients = [Client(share, random.Random(f"{seed}:{share.number}")) for share in shares]
    try:
        while not pipe.poll():
            until = time.monotonic() + 0.5 * (1 - rest)
            while time.monotonic() < until:
                for client in clients:
                    client.turn()
            tell(clients, pipe)
            time.sleep(0.5 * rest)
        pipe.recv()  # the word to end, or EOFError
        for client in clients:
            client.verify()
            client.close()
        tell(clients, pipe)
    except (BrokenPipeError, EOFError):
        return  # whoever listened is gone


def tell(clients: list[Client], pipe: Pipe) -> None:
    """Send what happened since the last time."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    for client in clients:
        counts.update(client.counts)
        problems += client.problems
        client.counts, client.problems = Counter(), []
    pipe.send((counts, problems))

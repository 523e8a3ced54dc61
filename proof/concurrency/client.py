# SPDX-License-Identifier: Apache-2.0
"""One client process: some pipelined connections to one disk, random requests, and what became of each.

The process writes what it did to a file when it ends.  A connection that breaks is made again; what was on
its way then may or may not have happened, but not after the new connection is there: a client that comes back
must not be overtaken by its former self.
"""

import ctypes
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from typing import cast

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_transmission import Pending
from fisk_core.errors import FiskError, InvalidValue, NoSpace
from proof.concurrency.cells import TORN, Cells, stamp_of
from proof.concurrency.history import MAYBE, READ, WRITE, History

DEPTH = 8
_PATIENCE = 60.0
_QUIET_NS = 300_000_000
_SHARES = (("read", 48), ("write", 38), ("zero", 4), ("trim", 4), ("flush", 3), ("large read", 1),
           ("large write", 2))  # fmt: skip
_DECK = [kind for kind, share in _SHARES for _ in range(share)]
_LARGE = (56, 200)  # cells: from about 128 KiB on


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client process is to do: clients ``first`` to ``first + connections - 1`` on one disk."""

    uri: str
    size: int
    disk: int
    first: int
    connections: int
    seed: str
    path: Path
    shared: "Shared"


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes tell each other: when to end (monotonic nanoseconds), how much each has done."""

    until: ctypes.c_int64
    done: "ctypes.Array[ctypes.c_int64]"

    @classmethod
    def of(cls, processes: int) -> "Shared":
        return cls(RawValue(ctypes.c_int64, 1 << 62), RawArray(ctypes.c_int64, processes))

    @property
    def quiet(self) -> int:
        """When to stop flushing, so that in the end something is not flushed."""
        return self.until.value - _QUIET_NS


class Timed(NbdClient):
    """A client that notes when each request was answered."""

    def _finish(self, cookie: int, pending: Pending) -> None:
        super()._finish(cookie, pending)
        _ANSWERED[pending] = time.monotonic_ns()


_ANSWERED: dict[Pending, int] = {}


@dataclass(slots=True)
class Asked:
    """A request on its way."""

    pending: Pending | None
    kind: int
    first: int
    count: int
    stamp: int
    invoked: int
    durable: bool = False


@dataclass(slots=True)
class Connection:
    """One client: its requests in flight, oldest first."""

    plan: Plan
    cells: Cells
    number: int
    client: Timed | None = None
    sequence: int = 0
    asked: deque[Asked] = field(default_factory=deque)
    doubtful: Asked | None = None
    """a change that is being sent"""
    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    flushes: list[tuple[int, int]] = field(default_factory=list)
    operations: int = 0
    reconnected: int = 0
    problems: list[str] = field(default_factory=list)

    def turn(self, chance: random.Random) -> None:
        """Ask for a few things more, and take what is answered."""
        try:
            if self.client is None:
                self.client = self._connect()
            while len(self.asked) < DEPTH:
                self._ask(self.client, chance)
            self.client.send()
            for _ in range(DEPTH // 2):
                self._take()
        except (FiskError, OSError) as exc:
            self._lost(exc)

    def finish(self) -> None:
        """Take what is still to come."""
        try:
            while self.asked:
                self._take()
        except (FiskError, OSError) as exc:
            self._lost(exc)
        if self.client is not None:
            self.client.close()

    def _take(self) -> None:
        """Wait for the oldest request."""
        pending = self.asked[0].pending
        assert pending is not None
        pending.wait()
        self._answered(self.asked.popleft(), pending)

    def _connect(self) -> Timed:
        """Connect as soon as somebody listens."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                made = cast(Timed, Timed.connect(self.plan.uri, depth=2 * DEPTH))
            except (FiskError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
                continue
            # What is behind the end at the moment the server says itself.
            made.info = replace(made.info, size=self.plan.size)
            return made

    def _lost(self, exc: Exception) -> None:
        """The connection broke: take the answers that came, and note what may have happened."""
        if self.client is not None:
            self.client.close()
        self.client = self._connect()
        self.reconnected += 1
        now = time.monotonic_ns()
        if self.doubtful is not None:
            self.asked.append(self.doubtful)
            self.doubtful = None
        while self.asked:
            asked = self.asked.popleft()
            if asked.pending is not None and asked.pending.done:
                self._answered(asked, asked.pending)
            elif asked.kind == WRITE and asked.count:
                self._note(asked, [asked.stamp] * asked.count, now, MAYBE)

    # Asking

    def _ask(self, client: Timed, chance: random.Random) -> None:
        kind = chance.choice(_DECK)
        if kind == "flush":
            if time.monotonic_ns() < self.plan.shared.quiet:
                invoked = time.monotonic_ns()
                self.asked.append(Asked(client.submit_flush(), WRITE, 0, 0, 0, invoked))
            return
        first, count = self._range(chance, large=kind.startswith("large"))
        if kind.endswith("read"):
            offset, length = self.cells.span(first, count)
            invoked = time.monotonic_ns()
            self.asked.append(Asked(client.submit_read(offset, length), READ, first, count, 0, invoked))
        else:
            self._change(client, kind, first, count, chance)

    def _range(self, chance: random.Random, *, large: bool) -> tuple[int, int]:
        """Choose cells: many at few places, some everywhere; never the first, which is the operator's."""
        limit = len(self.cells)
        if large:
            count = chance.randint(*_LARGE)
            return chance.randrange(1, limit - count), count
        first = 1 + int((limit - 1) * chance.random() ** (3 if chance.random() < 0.7 else 1))
        count = 1 if chance.random() < 0.7 else chance.randint(2, 9)
        return first, min(count, limit - first)

    def _change(self, client: Timed, kind: str, first: int, count: int, chance: random.Random) -> None:
        durable = chance.random() < 0.04 and time.monotonic_ns() < self.plan.shared.quiet
        flags = p.CMD_FLAG_FUA if durable else 0
        offset, length = self.cells.span(first, count)
        stamp = 0
        if kind.endswith("write"):
            self.sequence += 1
            stamp = stamp_of(self.number, self.sequence)
            data = self.cells.fill(stamp, first, count)
        if kind == "trim":
            first, count = self.cells.trimmed(first, count)
        asked = self.doubtful = Asked(None, WRITE, first, count, stamp, time.monotonic_ns(), durable)
        if kind.endswith("write"):
            asked.pending = client.submit_write(offset, data, flags)
        elif kind == "zero":
            flags |= p.CMD_FLAG_NO_HOLE if chance.random() < 0.3 else 0
            asked.pending = client.submit_zero(offset, length, flags)
        else:
            asked.pending = client.submit_trim(offset, length, flags)
        self.doubtful = None
        self.asked.append(asked)

    # Answers

    def _answered(self, asked: Asked, pending: Pending) -> None:
        returned = _ANSWERED.pop(pending)
        if pending.error is not None:
            if not isinstance(pending.error, (InvalidValue, NoSpace)):  # behind the end, at the moment
                self.problems.append(f"client {self.number}: {pending.error}")
            elif asked.kind == WRITE and asked.count >= _LARGE[0]:
                # It is written as it comes: the disk may have become smaller when a part of it was there.
                self._note(asked, [asked.stamp] * asked.count, returned, MAYBE)
            return
        self.operations += 1
        if asked.kind == READ:
            assert pending.buffer is not None
            data = bytes(pending.buffer)
            values = self.cells.stamps(data, asked.first, asked.count)
            if TORN in values:
                self.problems += [
                    f"client {self.number} read {asked.count} cells from {asked.first}: {each}"
                    for each in self.cells.torn(data, asked.first, asked.count)
                ]
            self._note(asked, values, returned, READ)
        elif pending.command == p.CMD_FLUSH:
            self.flushes.append((asked.invoked, returned))
        else:
            self._note(asked, [asked.stamp] * asked.count, returned, WRITE)

    def _note(self, asked: Asked, values: list[int], returned: int, kind: int) -> None:
        self.rows.extend(
            (cell, value, asked.invoked, returned, kind, asked.durable)
            for cell, value in enumerate(values, asked.first)
        )


def run(plan: Plan, number: int, tell: Callable[[tuple[int, int, list[str]]], None]) -> None:
    """Be the process of that number: work, write the history, tell (operations, reconnections, problems)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    os.nice(4)  # the operator is to get somewhere as well
    cells = Cells(plan.size, plan.disk)
    ones = [Connection(plan, cells, plan.first + number) for number in range(plan.connections)]
    problems = []
    try:
        work(plan, number, ones)
    except Exception as exc:  # whoever waits for the figures must hear of it
        problems.append(f"client {plan.first}: {exc!r}")
    History.joined([History.of(one.rows, one.flushes) for one in ones]).save(plan.path)
    problems += [problem for one in ones for problem in one.problems]
    tell((sum(one.operations for one in ones), sum(one.reconnected for one in ones), problems))


def work(plan: Plan, number: int, ones: list[Connection]) -> None:
    """Ask until it is time; say how much was done."""
    chance = random.Random(plan.seed)
    while time.monotonic_ns() < plan.shared.until.value:
        for one in ones:
            one.turn(chance)
        plan.shared.done[number] = sum(one.operations for one in ones)
    for one in ones:
        one.finish()

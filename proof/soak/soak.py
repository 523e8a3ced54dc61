# SPDX-License-Identifier: Apache-2.0
"""One soak: a daemon, eight clients on four Fisks, an operator and a killer; in the end all is counted.

Nothing here needs an end: the figures of any moment say what happened until then.
"""

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.model import Retention
from proof.soak import clients
from proof.soak.acts import Acts
from proof.soak.clients import BLOCK, Share
from proof.soak.watch import Process, look
from tests.fiskds import Fiskd, running

FISKS = 4
CLIENTS = 8
_BLOCKS = 1024  # of each client
_REST_SECONDS = 30.0
_PATIENCE = 300.0  # seconds for the daemon to start or end: a busy machine is no defect
_LAST_TWO = Retention(last=2)
_LAYERS = "**/layers/*/*"
_OPTIONS: dict[str, Any] = {"workers": {"healthy_seconds": 0, "longest_pause": 0.1, "reader_linger": 0.5}}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds (from, to) between two acts, two kills of a worker, two of the daemon; the clients' rest."""

    acts: tuple[float, float]
    workers: tuple[float, float]
    fiskd: tuple[float, float]
    report: float
    rest: float


LONG = Pace((0.5, 3.0), (30, 90), (300, 900), 60, 0.5)
SHORT = Pace((0.0, 0.2), (2, 5), (12, 20), 15, 0.0)


@dataclass(slots=True)
class Result:
    """What a soak did, and found."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    before: list[Process] = field(default_factory=list)
    after: list[Process] = field(default_factory=list)
    samples: list[tuple[float, list[Process]]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    garbage: int = 0
    """bytes that a second sweep gave back, after a quiet one"""
    unreferenced: int = 0
    """bytes layers take beyond what maps point to, with nothing left but the live Fisks, frozen once more"""
    left: int = 0
    """bytes of layers, logs and blobs with no Fisk left"""
    seconds: float = 0.0


class Soak:
    """Runs in ``home`` (short: it holds sockets), the second pool below ``other``."""

    def __init__(self, home: Path, other: Path, seed: int, pace: Pace, say: Callable[[str], None]) -> None:
        self.home, self.other, self.seed, self.pace, self.say = home, other, seed, pace, say
        self.result = Result()
        self.ending = False

    def run(self, seconds: float) -> Result:
        """Go on for so long, or until ``ending``; gives what was found."""
        with (
            running(self.home, patience=_PATIENCE, **_OPTIONS) as fiskd,
            RemoteEngine.open(fiskd.url) as engine,
        ):
            engine.create_pool("other", options={"path": str(self.other / "pool")})
            shares = self._attach(engine)
            acts = Acts(engine, [f"v{number}" for number in range(FISKS)], self._random("acts"), self.result)
            for act in acts.all:
                acts.do(act)
            self.result.before = self._quiet(fiskd, engine)
            with self._clients(shares) as pipes:
                self._go_on(fiskd, acts, pipes, seconds)
                self._end_clients(pipes)
            self.result.after = self._quiet(fiskd, engine)
            self._end(engine, acts)
        return self.result

    def _random(self, *parts: object) -> random.Random:
        return random.Random(":".join(map(str, (self.seed, *parts))))

    def _attach(self, engine: RemoteEngine) -> list[Share]:
        """Make the Fisks: blocks of two clients, and a tail that grows and shrinks."""
        each = CLIENTS // FISKS
        shares = []
        for number in range(FISKS):
            engine.create(f"v{number}", (each * _BLOCKS + 256) * BLOCK, page_size=(16 << 10) << 2 * number)
            uri = engine.attach(f"v{number}").uris[0]
            shares += [
                Share(uri, which * _BLOCKS, _BLOCKS, number * each + which + 1) for which in range(each)
            ]
            engine.schedules.create(f"v{number}", 60, prefix=f"auto{number}", retention=_LAST_TWO)
        return shares

    @contextmanager
    def _clients(self, shares: list[Share]) -> Iterator[list[Pipe]]:
        """Run the clients, two in each process; every process holds blocks of two Fisks."""
        fork = multiprocessing.get_context("fork")
        pipes: list[Pipe] = []
        with ExitStack() as stack:
            for first in range(CLIENTS // 2):
                ours, theirs = fork.Pipe()
                part = shares[first :: CLIENTS // 2]
                process = fork.Process(
                    target=clients.run, args=(part, str(self.seed), self.pace.rest, theirs)
                )
                process.start()
                theirs.close()
                stack.callback(_end_process, process)
                stack.callback(ours.close)
                pipes.append(ours)
            yield pipes

    def _go_on(self, fiskd: Fiskd, acts: Acts, pipes: list[Pipe], seconds: float) -> None:
        """Act and kill until the time is over."""
        chance, pace = self._random("kills"), self.pace
        began = reported = time.monotonic()
        act, worker, daemon = (
            began + chance.uniform(*each) for each in (pace.acts, pace.workers, pace.fiskd)
        )
        while not self.ending and time.monotonic() < began + seconds:
            now = time.monotonic()
            if now >= act:
                acts.one()
                act = now + chance.uniform(*pace.acts)
            if now >= worker:
                self._kill_worker(acts.engine, chance)
                worker = now + chance.uniform(*pace.workers)
            if now >= daemon:
                self._kill_daemon(fiskd, chance)
                daemon = now + chance.uniform(*pace.fiskd)
            if now >= reported + pace.report:
                reported = now
                self._report(fiskd, acts.engine, now - began)
            self._listen(pipes, 0.05)
        self.result.seconds = time.monotonic() - began

    def _report(self, fiskd: Fiskd, engine: RemoteEngine, seconds: float) -> None:
        """Say in a line how far it is."""
        with suppress(FiskError):  # something is just dying: the next line tells
            seen = look(fiskd, _workers(engine))
            self.result.samples.append((seconds, seen))
            self.say(line(seconds, self.result.counts, self.result.problems, seen))

    def _quiet(self, fiskd: Fiskd, engine: RemoteEngine) -> list[Process]:
        """Let everything come to rest, then look: the readers are gone, nothing is left to settle."""
        engine.collect()
        deadline = time.monotonic() + _REST_SECONDS
        while any(_workers(engine).values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        found = look(fiskd, _workers(engine))
        while any(process.deleted for process in found) and time.monotonic() < deadline:
            time.sleep(1.0)  # a worker looks every few seconds for layers that are gone
            found = look(fiskd, _workers(engine))
        return found

    def _end(self, engine: RemoteEngine, acts: Acts) -> None:
        """Remove everything step by step; nothing must be left behind at any."""
        for taken in acts.taken[:]:
            acts.verify_one(taken)
        acts.remove_all()
        for attachment in engine.attachments():
            engine.detach(attachment.id)
        engine.check(repair=True)  # what a killed daemon left
        acts.check()
        # A live layer has space that nothing was written to: its pages get theirs at once.
        frozen = [engine.snapshot(fisk.id, f"last-{fisk.name}") for fisk in engine.list()]
        with Engine.open(self.home) as local:
            local.settle()  # what the daemon does in the background: a layer is collected only after that
        engine.collect()
        self.result.garbage = engine.collect().reclaimed
        held = _bytes_below(self.home / "pools", self.other)
        self.result.unreferenced = held - sum(engine.usage(fisk.id).referenced for fisk in frozen)
        engine.delete(*(fisk.id for fisk in engine.list()))
        engine.collect()
        self.result.left = _bytes_below(self.home / "pools", self.other)

    def _kill_worker(self, engine: RemoteEngine, chance: random.Random) -> None:
        with suppress(FiskError, ProcessLookupError):
            found = [each["pid"] for each in engine.workers() if not each["read_only"]]
            if found:
                os.kill(chance.choice(found), signal.SIGKILL)
                self.result.counts["kills of workers"] += 1

    def _kill_daemon(self, fiskd: Fiskd, chance: random.Random) -> None:
        fiskd.kill()
        time.sleep(chance.random() / 2)
        fiskd.restart()
        self.result.counts["kills of fiskd"] += 1

    def _listen(self, pipes: list[Pipe], seconds: float) -> None:
        for pipe in multiprocessing.connection.wait(pipes, seconds):
            assert isinstance(pipe, Pipe)
            counts, problems = pipe.recv()
            self.result.counts.update(counts)
            self.result.problems += problems

    def _end_clients(self, pipes: list[Pipe]) -> None:
        """Have the clients read everything once more, and end."""
        for pipe in pipes:
            pipe.send("end")
        for pipe in pipes:
            while True:
                try:
                    counts, problems = pipe.recv()
                except EOFError:
                    break
                self.result.counts.update(counts)
                self.result.problems += problems


def _workers(engine: RemoteEngine) -> dict[int, bool]:
    return {each["pid"]: each["read_only"] for each in engine.workers()}


def _bytes_below(*folders: Path) -> int:
    """Give the bytes that layers take."""
    found = (path for folder in folders for path in folder.glob(_LAYERS))
    return sum(path.stat().st_blocks * 512 for path in found)


def _end_process(process: BaseProcess) -> None:
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()


def line(seconds: float, counts: Counter[str], problems: list[str], seen: list[Process]) -> str:
    """Say how far it is, in one line."""
    roles: dict[str, list[Process]] = {}
    for process in seen:
        roles.setdefault(process.role, []).append(process)
    memory = ", ".join(
        f"{role} {max(each.resident for each in found) >> 20} MiB"
        f"/{max(each.descriptors.total() for each in found)} fds"
        for role, found in sorted(roles.items())
    )
    done = ("operations", "blocks verified", "snapshot", "clone", "delete", "move", "kills of workers",
            "kills of fiskd", "refused")  # fmt: skip
    told = ", ".join(f"{counts[what]:,} {what}" for what in done)
    return f"{seconds / 60:7.1f} min: {told}; {memory}; {len(problems)} problems"

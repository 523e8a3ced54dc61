# SPDX-License-Identifier: Apache-2.0
"""Concurrency: many clients, snapshots, kills; every block linearizable, every snapshot of one moment.

Two Fisks, one in memory and one on the disk's file system, each with pipelined connections of several
processes that overlap.  See ``linear`` and ``cuts`` for what is checked.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from fisk_core.client import RemoteEngine
from fisk_core.client.transport import Patience
from fisk_core.engine import Engine
from proof.concurrency import client, cuts, linear
from proof.concurrency.cells import BLOCK, Cells
from proof.concurrency.cuts import Cut
from proof.concurrency.history import History
from proof.concurrency.killer import Troubles
from proof.concurrency.operator import Operator
from proof.core import Context, Figure, ProofFailed, at_least, exactly, proof
from proof.directories import disk_directory
from tests.fiskds import Fiskd, running

SIZE = 256 * BLOCK
PAGE = 4 * BLOCK
_LOAD = 0.65  # of the time; the rest is for starting, looking and checking
_PATIENCE = 120.0  # seconds for the daemon to start or end
_LONGEST = 4.0  # times as long, where the machine has no time for us
_SHOWN = 12
_OPTIONS: dict[str, Any] = {"workers": {"healthy_seconds": 0, "longest_pause": 0.1, "reader_linger": 0}}
Told = tuple[int, int, list[str]]


@dataclass(slots=True)
class Outcome:
    """What a run was, and what it shows."""

    operations: int = 0
    reconnected: int = 0
    cells: int = 0
    problems: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    """what operator and killer did, and when, in ms"""
    crash: list[Cut] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@proof("concurrency", "linearizable blocks, snapshots of one moment", seconds=60)
def concurrency(context: Context) -> list[Figure]:
    """Run it and judge it."""
    outcome = Outcome()
    with disk_directory() as other:
        run(context, other, outcome)
    counts = outcome.counts
    context.say(", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())))
    if outcome.problems:
        shown = "\n".join([*outcome.problems[:_SHOWN], *outcome.trace, *outcome.refused])
        raise ProofFailed(
            f"{len(outcome.problems)} things that cannot be explained; which requests meet is chance, so "
            f"it may take several runs of: python -m proof --only concurrency --seed {context.seed}\n{shown}"
        )
    operations, snapshots, must_die = least(context)
    return [
        exactly("violations", len(outcome.problems), 0),
        at_least("operations checked", outcome.operations, operations),
        Figure("registers read or written", outcome.cells),
        at_least("snapshots checked under load", counts["snapshots"], snapshots),
        Figure("groups of snapshots", counts["groups"]),
        Figure("reverts and resizes", counts["reverts"] + counts["resizes"]),
        Figure("collections beside them", counts["collections"]),
        at_least("kills", counts["kills of workers"] + counts["kills of fiskd"], must_die),
        Figure("hand-overs", counts["hand-overs"]),
        Figure("connections made again", outcome.reconnected),
    ]


def run(context: Context, other: Path, outcome: Outcome) -> None:
    """Put load on two Fisks, make trouble, check."""
    disks = {"a": Cells(SIZE, 0), "b": Cells(SIZE, 1)}
    began = time.monotonic_ns()
    with (
        running(context.scratch / "h", patience=_PATIENCE, **_OPTIONS) as fiskd,
        RemoteEngine.open(fiskd.url, patience=Patience(total=2 * _PATIENCE, connect=_PATIENCE)) as engine,
    ):
        engine.create_pool("disk", options={"path": str(other / "pool")})
        engine.create("a", SIZE, page_size=PAGE)
        engine.create("b", SIZE, pool="disk")
        with clients(context, engine, [*disks]) as (plans, told):
            operator = Operator(engine, disks, context.random("operator"))
            trouble(context, fiskd, operator, plans[0].shared, outcome)
            for _ in plans:
                operations, reconnected, problems = told.get()
                outcome.operations += operations
                outcome.reconnected += reconnected
                outcome.problems += problems
        outcome.crash = crash(fiskd, engine, operator)
        finish(engine, operator, outcome)
    outcome.problems += check(context.scratch / "h")
    outcome.trace = [
        f"{(start - began) // 1_000_000:6} to {(end - began) // 1_000_000:6}: {what}"
        for start, end, what in sorted(operator.done.trace)
    ]
    judge(began, disks, operator, [History.load(plan.path) for plan in plans], plans, outcome)


@contextmanager
def clients(
    context: Context, engine: RemoteEngine, names: list[str]
) -> "Iterator[tuple[list[client.Plan], SimpleQueue[Told]]]":
    """Run two processes for each Fisk, with three connections each."""
    processes = multiprocessing.get_context("fork")
    told: SimpleQueue[Told] = processes.SimpleQueue()
    shared = client.Shared.of(2 * len(names))
    plans = [
        client.Plan(
            uri=engine.attach(name).uris[0], size=SIZE, disk=disk, first=1 + 6 * disk + 3 * half,
            connections=3, seed=f"{context.seed}:{name}:{half}", path=context.scratch / f"{name}{half}.npz",
            shared=shared,
        )
        for disk, name in enumerate(names)
        for half in range(2)
    ]  # fmt: skip
    started: list[BaseProcess] = []
    try:
        for number, plan in enumerate(plans):
            started.append(processes.Process(target=client.run, args=(plan, number, told.put)))
            started[-1].start()
        yield plans, told
    except BaseException:
        for process in started:
            process.kill()
        raise
    finally:
        for process in started:
            process.join()


def trouble(
    context: Context, fiskd: Fiskd, operator: Operator, shared: client.Shared, outcome: Outcome
) -> None:
    """Operate while workers and daemon die; on a busy machine for longer, until it is worth judging."""
    began, wanted = time.monotonic(), least(context)
    troubles = Troubles(fiskd, context.random("killer"), (0.7, 2.2))

    def goes_on() -> bool:
        share = (time.monotonic() - began) / (context.seconds * _LOAD)
        done = sum(shared.done), operator.done.counts["snapshots"], troubles.kills
        return share < 1 or (
            share < _LONGEST and any(is_ < must for is_, must in zip(done, wanted, strict=True))
        )

    troubles.start()
    try:
        while goes_on():
            operator.step()
    finally:
        troubles.stop()
        shared.until.value = time.monotonic_ns() + int(5e8)
    outcome.problems += troubles.problems
    operator.done.trace += troubles.trace
    outcome.counts.update(troubles.counts)


def least(context: Context) -> tuple[int, int, int]:
    """Give how many operations, snapshots and kills there must be."""
    scale = min(1.0, context.seconds / 60)
    return int(200_000 * scale), int(30 * scale), int(5 * scale)


def crash(fiskd: Fiskd, engine: RemoteEngine, operator: Operator) -> list[Cut]:
    """Lose what was not flushed, as far as one can without losing power: the journals go too."""
    pids = [worker["pid"] for worker in engine.workers()]
    fiskd.kill()
    for pid in pids:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        multiprocessing.connection.wait([handle])
        os.close(handle)
    for journal in (fiskd.home / "run").glob("*.journal"):
        journal.unlink()
    fiskd.restart()
    return [
        Cut(
            "after the crash",
            cells.disk,
            0,
            time.monotonic_ns(),
            operator.read(name, cells, engine.get(name).size),
        )
        for name, cells in operator.disks.items()
    ]


def check(home: Path) -> list[str]:
    """Check the home; files that nobody names may be left by a daemon that was killed, nothing else."""
    with Engine.open(home) as embedded:
        found = [each for each in embedded.check(repair=True).problems if each.kind != "leak"]
        found += embedded.check().problems
    return [f"check: {each.kind} of {each.subject}: {each.message}" for each in found]


def finish(engine: RemoteEngine, operator: Operator, outcome: Outcome) -> None:
    """Look at every snapshot once more, and let go of everything."""
    for snapshot in operator.snapshots:
        operator.unchanged(snapshot, snapshot.name)
    for attachment in engine.attachments():
        engine.detach(attachment.id)
    outcome.problems += operator.done.problems
    outcome.counts.update(operator.done.counts)
    outcome.refused = [f"refused: {each}" for each in operator.done.refused]
    outcome.counts["operator refused"] = len(operator.done.refused)


def judge(
    began: int,
    disks: dict[str, Cells],
    operator: Operator,
    parts: list[History],
    plans: list[client.Plan],
    outcome: Outcome,
) -> None:
    """Check every cell of every disk, then the cuts."""
    tables = []
    for cells in disks.values():
        mine = [part for part, plan in zip(parts, plans, strict=True) if plan.disk == cells.disk]
        history = History.joined([operator.rows(cells.disk), *mine]).since(began)
        history = linear.versioned(history, operator.reverts(cells.disk, began))
        table, problems = linear.check(history, len(cells))
        tables.append(table)
        crashed = outcome.crash[cells.disk].since(began)
        problems += cuts.check_flushed(crashed, linear.begun(history, len(cells)))
        outcome.problems += [f"disk {cells.disk}: {problem}" for problem in problems]
        outcome.cells += len(history)
    for group in operator.cuts(began):
        problem = cuts.check(group, tables)
        outcome.problems += [problem] if problem else []

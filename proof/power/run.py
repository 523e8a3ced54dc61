# SPDX-License-Identifier: Apache-2.0
"""The proof of power loss: recordings of all kinds, from several seeds, cut thousands of times."""

import logging
import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.markup import escape

from proof.core import Context, Figure, ProofFailed, at_least, exactly, proof
from proof.power.judge import Broken
from proof.power.recording import KINDS, Place, record
from proof.power.replay import show
from proof.power.trial import Tally, Trial

CUTS = 10_000
CHECKOUT = Path(__file__).resolve().parents[2]
FAILED = CHECKOUT / ".work" / "power"
"""where replays of failures are put"""
KEPT = CHECKOUT / "proof" / "replays" / "power"
"""those of what was found and mended"""
_ENDLESS = 1 << 20
_LONGER = 2.5
"""how many times the usual a busy machine may take to come to its cuts"""
_PATIENCE = 60.0


@dataclass(slots=True)
class Plan:
    """What all processes have to do: so many cuts, and until the time is over; all are monotonic times."""

    wanted: int
    deadline: float
    latest: float
    share: float

    def is_over(self, cuts: int) -> bool:
        return time.monotonic() >= (self.deadline if cuts >= self.wanted else self.latest)


@proof("power", "Power loss: recorded runs, cut at every record and opened again", seconds=200)
def power(context: Context) -> list[Figure]:
    """Share the recordings among processes; says how to see again the cuts that broke a promise."""
    replays = sorted(KEPT.glob("*.replay"))
    for path in replays:
        if problems := show(path).problems:
            raise ProofFailed("\n".join((f"python -m proof.power {path}", *map(str, problems))))
    now, seconds = time.monotonic(), context.seconds
    plan = Plan(
        wanted=round(CUTS * min(1.0, seconds / 200)),
        deadline=now + seconds,
        latest=now + _LONGER * seconds,
        share=seconds * context.processes / len(KINDS),
    )
    tally = Tally()
    for part in _work(context, plan):
        tally.add(part)
    context.say(f"{tally.recordings} recordings, {tally.records:,} records, {tally.deep:,} cuts used further")
    for failure in tally.failures:
        context.say(escape(str(failure)))
    return [
        at_least("cuts", tally.cuts, plan.wanted),
        *(exactly(f"cuts that {kind}", tally.broke(kind), 0) for kind in Broken),
        Figure("Fisks compared", tally.fisks),
        Figure("blocks compared", tally.blocks),
    ]


def _work(context: Context, plan: Plan) -> Iterator[Tally]:
    """Have processes record and cut until the time is over; gives what each did."""
    methods = multiprocessing.get_context("spawn")
    cuts = methods.Value("i", 0)
    processes, ends = [], []
    for number in range(context.processes):
        mine, other = methods.Pipe(duplex=False)
        turns = range(number, _ENDLESS, context.processes)
        args = (turns, context.scratch, context.seed, plan, cuts, other)
        processes.append(methods.Process(target=_be, args=args, daemon=True))
        processes[-1].start()
        other.close()
        ends.append(mine)
    try:
        while ends:
            for end in wait(ends, max(1.0, plan.latest - time.monotonic()) + _PATIENCE):
                assert isinstance(end, Connection)
                try:
                    yield end.recv()
                except EOFError:
                    ends.remove(end)
        for process in processes:
            process.join()
            if process.exitcode:
                raise ProofFailed("a process that cut recordings failed; what it said is above")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _be(
    turns: range, scratch: Path, seed: int, plan: Plan, cuts: "Synchronized[int]", told: Connection
) -> None:
    """Be one of the processes: its kinds in turn, each with other seeds the next time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays mounted
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # of recovery, which is what happens all the time here

    def count() -> bool:
        with cuts.get_lock():
            cuts.value += 1
        return time.monotonic() < ends and not plan.is_over(cuts.value)

    for turn in turns:
        if plan.is_over(cuts.value):
            return
        kind = KINDS[turn % len(KINDS)]
        name = f"{kind.name} {seed}.{turn // len(KINDS)}"
        place = Place(scratch / str(turn))
        records = record(kind, name, place)
        ends = time.monotonic() + plan.share
        told.send(Trial(name, records, place.root, FAILED).run(count))
        shutil.rmtree(place.directory)

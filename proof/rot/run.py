# SPDX-License-Identifier: Apache-2.0
"""The campaign: several processes, each with a home of its own, damage one thing after the other.

What is damaged and how comes from the seed, the number of the process and the number of the trial; so a trial
is seen again with the same seed.
"""

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

from fisk_core.dataplane.zygote import Zygote
from proof.core import Context, Figure, ProofFailed, at_least, exactly, proof
from proof.rot.blocks import Blocks
from proof.rot.judge import Judge, Tally, chance_of
from proof.rot.metadata import PoolFiles, PoolHeader, Running
from proof.rot.rows import CatalogFile
from proof.rot.specimen import PLAIN, SUMMED, Specimen, build

_SHOWN = 8
_SHARES = {"pool files": 0.42, "pool header": 0.03, "running": 0.09, "catalog": 0.16, "blocks": 0.3}
"""of the time; looked at in turns, so that no kind waits for another"""
_DAMAGES = 5000
_LONGER = 1.5
"""how many times the usual a busy machine may take to come to its number of damages"""
_MARGIN = 4.0
"""seconds a process takes to begin and end"""
_SECONDS = 60
_MORE = 1000
"""added to the number of a process for the trials that come on top"""
Trial = Callable[[Random], str]


@proof("rot", "damaged files are named, damaged data is not served", seconds=_SECONDS)
def rot(context: Context) -> list[Figure]:
    """Run it and judge it."""
    spawn = multiprocessing.get_context("spawn")
    tally, goal = Tally(), round(_DAMAGES * min(1.0, context.seconds / _SECONDS))
    share = -(-goal // context.processes)
    with ProcessPoolExecutor(context.processes, mp_context=spawn) as processes:
        parts = [
            processes.submit(
                work, context.scratch / str(number), context.seconds, context.seed, number, share
            )
            for number in range(context.processes)
        ]
        for part in parts:
            tally.add(part.result())
    for name, count in sorted(tally.counts.items()):
        context.say(f"{name}: {count:,}")
    if tally.broken:
        more = len(tally.broken) - _SHOWN
        again = f"python -m proof --only rot --seed {context.seed}"
        listed = "\n".join([*tally.broken[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])
        raise ProofFailed(f"{listed}\n(again: {again})")
    return figures(tally, goal)


def figures(tally: Tally, goal: int) -> list[Figure]:
    """Give what was counted."""
    counts = tally.counts
    noticed = sum(count for name, count in counts.items() if name.startswith("noticed by "))
    return [
        at_least("damages", _damages(tally), goal),
        exactly("damage neither named nor harmless", len(tally.broken), 0),
        Figure("damaged files that were named", noticed),
        Figure("damaged files that read exactly as before", counts["harmless"]),
        at_least("damaged 4 KiB blocks, all refused", counts["damaged blocks"], goal // 10),
        exactly("wrong bytes served as good", counts["wrong bytes"], 0),
        Figure("bytes compared", tally.bytes_compared),
    ]


def _damages(tally: Tally) -> int:
    """Give how many were judged."""
    kinds = ("noticed by ", "harmless")
    return tally.counts["damaged blocks"] + sum(
        count for name, count in tally.counts.items() if name.startswith(kinds)
    )


def work(folder: Path, seconds: float, seed: int, number: int, goal: int) -> Tally:
    """Do the part of one process: until the time is over, and ``goal`` damages are done or even more time."""
    folder.mkdir()
    _say_into(folder / "log")
    deadline = time.monotonic() + seconds - _MARGIN
    tally = Tally()
    judge = Judge(tally)
    with ExitStack() as stack:
        specimen = stack.enter_context(build(folder / "h", chance_of(seed, number, "specimen")))
        zygote = stack.enter_context(closing(Zygote()))
        before = _fingerprint(specimen)
        kinds: dict[str, Trial] = {
            "pool files": PoolFiles(specimen, judge, zygote, folder).trial,
            "pool header": PoolHeader(specimen, judge).trial,
            "running": Running(folder / "run", judge, chance_of(seed, number, "running")).trial,
            "catalog": CatalogFile(specimen, judge, folder / "c").trial,
        }
        _take_turns(kinds, deadline - _SHARES["blocks"] * seconds, seed, number, tally)
        if _fingerprint(specimen) != before:
            tally.broken.append("looking at damaged files changed files that were not damaged")
        blocks = Blocks(specimen.engine, judge, zygote, folder, chance_of(seed, number, "blocks"))
        with closing(blocks):
            _take_turns({"blocks": blocks.trial}, deadline, seed, number, tally)
        more = {name: kinds[name] for name in ("pool files", "running")}
        latest = deadline + (_LONGER - 1) * seconds
        _take_turns(more, latest, seed, number + _MORE, tally, goal)
    return tally


def _take_turns(
    kinds: dict[str, Trial], deadline: float, seed: int, number: int, tally: Tally, goal: int | None = None
) -> None:
    """Try the kind that is most behind its share, until the time is over or the ``goal`` is reached."""
    spent, trials = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0)
    while time.monotonic() < deadline and len(tally.broken) < 4 * _SHOWN:
        if goal is not None and _damages(tally) >= goal:
            return
        kind = min(kinds, key=lambda each: spent[each] / _SHARES[each])
        began = time.monotonic()
        trials[kind] += 1
        try:
            kinds[kind](chance_of(seed, number, kind, trials[kind]))
        except ProofFailed as exc:
            tally.broken.append(f"{exc} (process {number}, {kind}, trial {trials[kind]})")
        spent[kind] += time.monotonic() - began


def _fingerprint(specimen: Specimen) -> str:
    """Give a digest of all files of the pools."""
    digest = hashlib.sha256()
    for pool in (PLAIN, SUMMED):
        for path in sorted(specimen.path(pool).rglob("*")):
            digest.update(f"{path}\0".encode())
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _say_into(path: Path) -> None:
    """Have what this process and its workers log out of the way: errors, thousands of them."""
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(fd, 2)
    os.close(fd)

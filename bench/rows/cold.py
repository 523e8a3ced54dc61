# SPDX-License-Identifier: Apache-2.0
"""The row on data that is not in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench import peers
from bench.context import Bench
from bench.figures import Figure, at_least, take_turns
from bench.fio import Target
from bench.processes import drop_page_cache
from bench.rows import row
from bench.rows.hot import FISK, NBDKIT, READ_4K, read_all

DIRECT = "fio io_uring O_DIRECT"
_WHAT = "4 KiB random read, QD 32, page cache dropped"
_MUSTS = {NBDKIT: at_least(1.2), DIRECT: at_least(0.8)}


@row("cold")
def cold(bench: Bench) -> Iterator[Figure]:
    """4 KiB random read of what the page cache does not hold; each block is asked for once."""
    if os.geteuid() != 0:
        for theirs, must in _MUSTS.items():
            yield Figure("cold", _WHAT, theirs, must=must, note="dropping the page cache needs root")
        return
    _wake_disk(bench)
    with _targets(bench) as targets:
        contestants = {name: partial(_read_cold, bench, target) for name, target in targets.items()}
        samples = take_turns(contestants, bench.effort.rounds, "IOPS")
    for theirs, must in _MUSTS.items():
        note = (
            "client and server share 2 cores; fio on the file has both for itself" if theirs == DIRECT else ""
        )
        yield samples.compare("cold", _WHAT, FISK, theirs, must, note)


@contextmanager
def _targets(bench: Bench) -> Iterator[dict[str, Target]]:
    with (
        bench.serve(bench.filled("hot")) as ours,
        peers.nbdkit(bench.sockets, bench.raw_file) as theirs,
    ):
        yield {FISK: ours.target, NBDKIT: theirs.target, DIRECT: Target.direct(bench.raw_file)}


def _wake_disk(bench: Bench) -> None:
    """Read everything from the disk once.

    A virtual one may be far slower (20 times and more were seen) where it was not used for minutes.  This
    takes servers of its own: a worker that read in large pieces has mapped files, which keeps them cached.
    """
    drop_page_cache()
    with _targets(bench) as targets:
        for target in targets.values():
            read_all(bench, target)


def _read_cold(bench: Bench, target: Target) -> float:
    drop_page_cache()
    return bench.load(target, READ_4K, seconds=min(bench.effort.seconds, 2), once=True).iops

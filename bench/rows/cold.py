# SPDX-License-Identifier: Apache-2.0
"""The row on data that is not in memory."""

import os
from collections.abc import Iterator
from functools import partial

from bench import peers
from bench.context import Bench
from bench.figures import Figure, at_least, take_turns
from bench.fio import Target
from bench.processes import drop_page_cache
from bench.rows import row
from bench.rows.hot import FISK, NBDKIT, READ_4K

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
    with (
        bench.serve(bench.filled("hot")) as ours,
        peers.nbdkit(bench.sockets, bench.raw_file) as theirs_server,
    ):
        targets = {
            FISK: ours.target,
            NBDKIT: theirs_server.target,
            DIRECT: Target.direct(bench.raw_file),
        }
        contestants = {name: partial(_read_cold, bench, target) for name, target in targets.items()}
        samples = take_turns(contestants, bench.effort.rounds, "IOPS")
    for theirs, must in _MUSTS.items():
        note = (
            "client and server share 2 cores; fio on the file has both for itself" if theirs == DIRECT else ""
        )
        yield samples.compare("cold", _WHAT, FISK, theirs, must, note)


def _read_cold(bench: Bench, target: Target) -> float:
    drop_page_cache()
    return bench.load(target, READ_4K, seconds=min(bench.effort.seconds, 2), once=True).iops

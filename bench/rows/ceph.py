# SPDX-License-Identifier: Apache-2.0
"""Ours beside Ceph RBD on the same machine: random reads and writes, and clones."""

from collections.abc import Iterator
from functools import partial

from bench.ceph import Cluster, cluster, missing
from bench.context import Bench
from bench.figures import Figure, Samples, Value, at_least, at_most, take_turns
from bench.fio import Load, Target
from bench.rows import row
from bench.rows.hot import READ_4K, WRITE_4K
from bench.rows.verbs import milliseconds

FISK = "fisk"
RBD = "Ceph RBD"
_CLONES = 100


@row("ceph")
def ceph(bench: Bench) -> Iterator[Figure]:
    """One OSD on a file of the same file system, no cache in the client."""
    absent = missing()
    if absent:
        yield Figure("ceph", "4 KiB random read and write, clones", RBD, note=absent)
        return
    name = bench.filled("beside")
    with cluster(bench.directory) as peer:
        peer.create_image("image", bench.effort.size)
        with bench.serve(name) as server:
            targets = {FISK: server.target, RBD: peer.target("image")}
            for what, load, factor in (("read", READ_4K, 10), ("write", WRITE_4K, 5)):
                samples = _measure(bench, targets, load)
                yield samples.compare("ceph", f"4 KiB random {what}, QD 32", FISK, RBD, at_least(factor))
        yield from _clones(bench, peer)


def _measure(bench: Bench, targets: dict[str, Target], load: Load) -> Samples:
    contestants = {name: partial(_iops, bench, target, load) for name, target in targets.items()}
    return take_turns(contestants, bench.effort.rounds, "IOPS")


def _iops(bench: Bench, target: Target, load: Load) -> float:
    return bench.load(target, load).iops


def _clones(bench: Bench, peer: Cluster) -> Iterator[Figure]:
    """Time clones one by one in process; the sum of a hundred is what a hundred take."""
    theirs = peer.clones("image", _CLONES)
    with bench.engine() as engine:
        engine.snapshot("beside", "beside@ceph")
        ours = [milliseconds(engine.clone, "beside@ceph", f"beside-ceph-{n}") for n in range(_CLONES)]
        together = milliseconds(engine.clone, "beside@ceph", "beside-ceph-all", count=_CLONES)
    yield Samples("ms", {FISK: ours, RBD: theirs}).compare(
        "ceph", "clone, in process", FISK, RBD, at_most(0.2)
    )
    ratio = together / sum(theirs)
    yield Figure(
        "ceph",
        f"{_CLONES} clones",
        RBD,
        value=Value.of([ratio]),
        must=at_most(0.2),
        detail=f"{together:.1f} ms : {sum(theirs):.0f} ms",
        note="ours in one call, theirs one by one: librbd has no call for many",
        samples={FISK: [together], RBD: [sum(theirs)]},
    )

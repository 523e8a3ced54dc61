# SPDX-License-Identifier: Apache-2.0
"""Rows on long histories: 1 000 snapshots in the lineage, 1 000 sibling clones, against none of either.

Three Fisks hold the same bytes.  ``plain`` has no history; ``deep`` got its bytes in 1 000 periods, each
ended by a snapshot; ``sibling`` is one of 1 000 clones of a snapshot of ``plain``'s bytes.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from bench.context import Bench, fill
from bench.figures import Figure, Samples, at_least, at_most, take_turns
from bench.fio import Load
from bench.processes import MIB
from bench.rows import row
from bench.rows.hot import (
    READ_1,
    READ_1M,
    READ_4K,
    WRITE_1,
    WRITE_1M,
    WRITE_4K,
    Measure,
    bandwidth,
    iops,
    latency,
    measure,
    touch_blocks,
)
from fisk_core.dataplane.disk import Disk
from fisk_core.engine import Engine

PLAIN = "plain"
DEEP = "deep"
SIBLING = "sibling"
_BLOCK = 4096
_RUN = MIB

# figure, load, how to measure it, unit, whether more is better
_FIGURES: list[tuple[str, Load, Measure, str, bool]] = [
    ("4 KiB random read, QD 32", READ_4K, iops, "IOPS", True),
    ("4 KiB random read latency, QD 1", READ_1, latency, "us", False),
    ("1 MiB sequential read, QD 8", READ_1M, bandwidth, "B/s", True),
    ("4 KiB random write, QD 32, steady", WRITE_4K, iops, "IOPS", True),
    ("4 KiB random write latency, QD 1", WRITE_1, latency, "us", False),
    ("1 MiB sequential write, QD 8", WRITE_1M, bandwidth, "B/s", True),
]


@row("lineage")
def lineage(bench: Bench) -> Iterator[Figure]:
    """Every hot figure on three histories of the same bytes."""
    _prepare(bench)
    rounds = max(1, bench.effort.rounds - 2)
    # Many: each is short, and two of the very same Fisk differ by a third.
    yield from _first_touches(bench, 2 * bench.effort.rounds - 1)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(bench.serve(name)) for name in (PLAIN, DEEP, SIBLING)}
        for what, load, how, unit, more in _FIGURES:
            if load is WRITE_4K:  # steady means that all was written before in this period
                for server in servers.values():
                    bench.load(server.target, WRITE_1M, once=True, seconds=60)
            samples = measure(bench, servers, load, how, unit, rounds)
            yield from _lines(bench, what, samples, more)


def _lines(bench: Bench, what: str, samples: Samples, more: bool) -> Iterator[Figure]:
    must = at_least(0.95) if more else at_most(1 / 0.95)
    count = bench.effort.lineage
    for name, history in ((DEEP, f"{count} snapshots deep"), (SIBLING, f"one of {count} clones")):
        yield samples.compare("lineage", f"{what}: {history}", name, PLAIN, must)


def _first_touches(bench: Bench, rounds: int) -> Iterator[Figure]:
    """A clone of a live Fisk is a snapshot of it, all of whose blocks are still to be touched."""
    contestants = {name: partial(_touch_clone, bench, name) for name in (PLAIN, DEEP, SIBLING)}
    samples = take_turns(contestants, rounds, "IOPS")
    yield from _lines(bench, "4 KiB random write, QD 32, first touch", samples, True)


def _touch_clone(bench: Bench, name: str) -> float:
    clone = f"{name}-touched"
    with bench.engine() as engine:
        engine.clone(name, clone)
    with bench.serve(clone) as server:
        found = touch_blocks(bench, server)
    with bench.engine() as engine:
        engine.delete(clone)
    return found


def _prepare(bench: Bench) -> None:
    with bench.engine() as engine:
        engine.create(PLAIN, bench.effort.size)
        fill(engine, PLAIN, bench.effort.size)
        engine.clone(PLAIN, SIBLING, count=bench.effort.lineage)
        engine.set(f"{SIBLING}-{bench.effort.lineage // 2}", name=SIBLING)
        deepen(engine, DEEP, bench.effort.size, bench.effort.lineage, _RUN)


def deepen(engine: Engine, name: str, size: int, periods: int, run: int) -> None:
    """Create a live Fisk ``name`` whose runs of ``run`` bytes were dealt at random to ``periods`` periods.

    Every period, the last but one and all before, is kept by a snapshot ``name@N``.
    """
    engine.create(name, size)
    fill(engine, name, size)
    engine.snapshot(name, f"{name}@0")
    dealt = list(range(0, size, run))
    random.Random(2).shuffle(dealt)
    for period in range(1, periods):
        mine = dealt[period - 1 :: periods - 1] or [dealt[period % len(dealt)]]
        with engine.open_disk(name, writable=True) as disk:
            _write_runs(disk, mine, run)
        engine.snapshot(name, f"{name}@{period}")


def _write_runs(disk: Disk, offsets: list[int], run: int) -> None:
    content = random.Random(3).randbytes(run)
    for offset in offsets:
        disk.write(offset, content)
    disk.flush()


@row("scattered")
def scattered(bench: Bench) -> Iterator[Figure]:
    """The worst case of a lineage: neighbouring blocks nearly always lie in different layers."""
    name = "scattered"
    with bench.engine() as engine:
        if not engine.list(name=PLAIN):
            engine.create(PLAIN, bench.effort.size)
            fill(engine, PLAIN, bench.effort.size)
        deepen(engine, name, bench.effort.size, bench.effort.lineage, _BLOCK)
    history = f"every block from one of {bench.effort.lineage} layers at random"
    with bench.serve(PLAIN) as plain, bench.serve(name) as deep:
        servers = {PLAIN: plain, name: deep}
        samples = measure(bench, servers, READ_4K, iops, "IOPS")
        what = "4 KiB random read, QD 32"
        yield samples.compare("scattered", f"{what}: {history}", name, PLAIN, at_least(0.95))
        samples = measure(bench, servers, READ_1M, bandwidth, "B/s")
        note = "256 reads from 256 files instead of one"
        yield samples.compare("scattered", f"1 MiB sequential read: {history}", name, PLAIN, None, note)

# SPDX-License-Identifier: Apache-2.0
"""Rows on data in the page cache: random, first touch, latency and sequential."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench import peers
from bench.context import Bench
from bench.figures import Figure, Must, Samples, at_least, at_most, take_turns
from bench.fio import Load, Target
from bench.peers import Server
from bench.processes import MIB
from bench.rows import row

FISK = "fisk"
NBDKIT = "nbdkit file"
QEMU_RAW = "qemu-nbd raw"
QEMU_QCOW2 = "qemu-nbd qcow2"
OVERLAY = "qemu-nbd fresh qcow2 overlay"
STEADY = "fisk, steady"

READ_4K = Load("randread", 4096, 32)
WRITE_4K = Load("randwrite", 4096, 32)
WRITE_CLUSTERS = Load("randwrite", 4096, 32, align=64 << 10)
READ_1 = Load("randread", 4096, 1)
WRITE_1 = Load("randwrite", 4096, 1)
READ_1M = Load("read", MIB, 8)
WRITE_1M = Load("write", MIB, 8)

Measure = Callable[[Bench, Server, Load], float]


def iops(bench: Bench, server: Server, load: Load) -> float:
    """Measure requests per second."""
    return bench.load(server.target, load).iops


def bandwidth(bench: Bench, server: Server, load: Load) -> float:
    """Measure bytes per second."""
    return bench.load(server.target, load).bandwidth


def latency(bench: Bench, server: Server, load: Load) -> float:
    """Measure the mean time to completion in microseconds."""
    return bench.load(server.target, load).mean_us


def read_all(bench: Bench, target: Target) -> None:
    """Read everything once."""
    bench.load(target, READ_1M, once=True, seconds=60)


def measure(
    bench: Bench,
    servers: Mapping[str, Server],
    load: Load,
    how: Measure,
    unit: str,
    rounds: int | None = None,
) -> Samples:
    """Put ``load`` on ``servers`` in turns, after one short run each that is not counted."""
    for server in servers.values():
        bench.load(server.target, load, seconds=0.5)
    contestants = {name: partial(_warm, how, bench, server, load) for name, server in servers.items()}
    return take_turns(contestants, rounds or bench.effort.rounds, unit)


def _warm(how: Measure, bench: Bench, server: Server, load: Load) -> float:
    """Measure from the page cache: a kernel that pages out what rests (DAMON) took some of it meanwhile."""
    read_all(bench, server.target)
    return how(bench, server, load)


def _all_servers(bench: Bench, stack: ExitStack) -> dict[str, Server]:
    """Start ours and all peers on the same bytes."""
    sockets = bench.sockets
    return {
        FISK: stack.enter_context(bench.serve(bench.filled("hot"))),
        NBDKIT: stack.enter_context(peers.nbdkit(sockets, bench.raw_file)),
        QEMU_RAW: stack.enter_context(peers.qemu_nbd(sockets, bench.raw_file, "raw")),
        QEMU_QCOW2: stack.enter_context(peers.qemu_nbd(sockets, bench.qcow2_file, "qcow2")),
    }


def _against_all(
    bench: Bench, name: str, what: str, load: Load, musts: Mapping[str, Must]
) -> Iterator[Figure]:
    with ExitStack() as stack:
        servers = _all_servers(bench, stack)
        samples = measure(bench, servers, load, iops, "IOPS")
    for theirs, must in musts.items():
        yield samples.compare(name, what, FISK, theirs, must)


@row("random-read")
def random_read(bench: Bench) -> Iterator[Figure]:
    """4 KiB random read, QD 32, cached."""
    musts = {NBDKIT: at_least(1.5), QEMU_RAW: at_least(3), QEMU_QCOW2: at_least(4)}
    yield from _against_all(bench, "random-read", "4 KiB random read, QD 32, cached", READ_4K, musts)


@row("random-write")
def random_write(bench: Bench) -> Iterator[Figure]:
    """4 KiB random write, QD 32, all blocks written before."""
    musts = {NBDKIT: at_least(1.1), QEMU_RAW: at_least(3), QEMU_QCOW2: at_least(3)}
    yield from _against_all(bench, "random-write", "4 KiB random write, QD 32, steady", WRITE_4K, musts)


@row("first-touch")
def first_touch(bench: Bench) -> Iterator[Figure]:
    """4 KiB random write, QD 32, where nothing was written since a snapshot or overlay was made."""
    name, what = "first-touch", "4 KiB random write, QD 32, first touch on a fresh snapshot"
    wide = bench.filled("wide", bench.effort.wide)
    hot = bench.filled("hot")
    contestants: dict[str, Callable[[], float]] = {
        FISK: partial(_on_fresh_snapshot, bench, wide, partial(touch_clusters, bench)),
        OVERLAY: partial(_on_fresh_overlay, bench),
    }
    samples = take_turns(contestants, bench.effort.rounds, "IOPS")
    note = "each write the first to its 64 KiB, the cluster of qcow2"
    yield samples.compare(name, what, FISK, OVERLAY, at_least(8), note)
    contestants = {
        FISK: partial(_on_fresh_snapshot, bench, hot, partial(touch_blocks, bench)),
        STEADY: partial(_steady, bench, hot),
    }
    samples = take_turns(contestants, bench.effort.rounds, "IOPS")
    yield samples.compare(name, what, FISK, STEADY, at_least(0.7), "each write the first to its block")


def touch_clusters(bench: Bench, server: Server) -> float:
    """Write 4 KiB at the beginning of every 64 KiB of a wide file, once."""
    return bench.load(server.target, WRITE_CLUSTERS, size=bench.effort.wide, once=True).iops


def touch_blocks(bench: Bench, server: Server) -> float:
    """Write every block of a hot file once, as far as time allows."""
    return bench.load(server.target, WRITE_4K, seconds=bench.effort.seconds / 2, once=True).iops


def _steady(bench: Bench, name: str) -> float:
    with bench.serve(name) as server:
        return bench.load(server.target, WRITE_4K, seconds=bench.effort.seconds / 2).iops


def _on_fresh_snapshot(bench: Bench, name: str, touch: Callable[[Server], float]) -> float:
    before = f"{name}-before"
    with bench.engine() as engine:
        engine.snapshot(name, before)
    with bench.serve(name) as server:
        found = touch(server)
    with bench.engine() as engine:
        engine.revert(name, before)
        engine.delete(before)
    return found


def _on_fresh_overlay(bench: Bench) -> float:
    with peers.qemu_nbd(bench.sockets, bench.overlay_file(), "qcow2") as server:
        return touch_clusters(bench, server)


def _two(bench: Bench, load: Load, how: Measure, unit: str) -> Samples:
    with (
        bench.serve(
            bench.filled("calm")
        ) as ours,  # never snapshotted: all of it in one layer, as in the file
        peers.nbdkit(bench.sockets, bench.raw_file) as theirs,
    ):
        return measure(bench, {FISK: ours, NBDKIT: theirs}, load, how, unit)


@row("latency")
def latencies(bench: Bench) -> Iterator[Figure]:
    """4 KiB random read and write, one at a time."""
    for word, load in (("read", READ_1), ("write", WRITE_1)):
        samples = _two(bench, load, latency, "us")
        yield samples.compare("latency", f"4 KiB random {word} latency, QD 1", FISK, NBDKIT, at_most(1.0))


@row("sequential")
def sequential(bench: Bench) -> Iterator[Figure]:
    """1 MiB sequential read and write, QD 8."""
    for word, load, limit in (("read", READ_1M, 1.3), ("write", WRITE_1M, 1.1)):
        samples = _two(bench, load, bandwidth, "B/s")
        yield samples.compare("sequential", f"1 MiB sequential {word}, QD 8", FISK, NBDKIT, at_least(limit))

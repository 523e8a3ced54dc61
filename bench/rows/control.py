# SPDX-License-Identifier: Apache-2.0
"""Rows on the daemon: clones through REST, attaching, memory, and the acceptor's part in the data path."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.context import GIB, Bench, fill
from bench.daemons import Daemon, fiskd
from bench.figures import Figure, Value, at_least, at_most, take_turns
from bench.fio import Target
from bench.processes import MIB, private_bytes
from bench.rows import row
from bench.rows.hot import READ_4K
from bench.rows.verbs import milliseconds
from fisk_core.client import RemoteEngine
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine

_TOGETHER = 64
_TIMES = 100
_FISKS, _WORKERS = 1000, 200


def _daemon_home(bench: Bench, name: str) -> Path:
    return bench.sockets / name


@row("rest-clone")
def rest_clone(bench: Bench) -> Iterator[Figure]:
    """Clones of a template, asked for over the unix socket."""
    with fiskd(_daemon_home(bench, "clone")) as daemon, daemon.client() as client:
        client.create("template", 10 * GIB)
        client.snapshot("template", "template@0")
        one = [milliseconds(client.clone, "template@0", f"one-{number}") for number in range(_TIMES)]
        rates = [_rate(daemon, f"many-{number}") for number in range(bench.effort.rounds)]
    yield Figure(
        "rest-clone",
        "clone through REST, one after the other",
        value=Value.of(one),
        must=at_most(8, "ms"),
        unit="ms",
        samples={"fisk": one},
    )
    yield Figure(
        "rest-clone",
        f"clones through REST, {_TOGETHER} clients at a time",
        value=Value.of(rates),
        must=at_least(300, "/s"),
        unit="/s",
        detail="clients and daemon share the processors",
        samples={"fisk": rates},
    )


def _rate(daemon: Daemon, prefix: str) -> float:
    """Give the clones per second that so many clients get done together."""
    each = 10
    barrier = threading.Barrier(_TOGETHER + 1)

    def work(number: int) -> None:
        with daemon.client() as client:
            client.about()  # connected before the time counts
            barrier.wait()
            for turn in range(each):
                client.clone("template@0", f"{prefix}-{number}-{turn}")

    with ThreadPoolExecutor(_TOGETHER) as threads:
        outcomes = [threads.submit(work, number) for number in range(_TOGETHER)]
        barrier.wait()
        start = time.perf_counter()
        for outcome in outcomes:
            outcome.result()
        return _TOGETHER * each / (time.perf_counter() - start)


@row("attach")
def attach(bench: Bench) -> Iterator[Figure]:
    """From asking for an attachment to the first byte, with no worker there yet."""
    with fiskd(_daemon_home(bench, "attach")) as daemon, daemon.client() as client:
        client.create("template", 10 * GIB)
        with client.open_disk("template", writable=True) as disk:
            disk.write(0, b"x" * MIB)
            disk.flush()
        client.snapshot("template", "template@0")
        client.clone("template@0", "disk", count=30)
        times = [milliseconds(_first_byte, client, f"disk-{number}") for number in range(1, 31)]
    yield Figure(
        "attach",
        "attach to the first byte read, no worker yet",
        value=Value.of(times),
        must=at_most(60, "ms"),
        unit="ms",
        samples={"fisk": times},
    )


def _first_byte(client: RemoteEngine, name: str) -> None:
    made = client.attach(name)
    with NbdClient.connect(made.uris[0]) as disk:
        assert bytes(disk.read(0, 4096)) == b"x" * 4096


@row("daemon-memory")
def daemon_memory(bench: Bench) -> Iterator[Figure]:
    """What the daemon takes with many Fisks, and many idle workers together."""
    with fiskd(_daemon_home(bench, "memory")) as daemon, daemon.client() as client:
        client.create("template", 10 * GIB)
        client.snapshot("template", "template@0")
        client.clone("template@0", "disk", count=_FISKS)
        for _ in range(3):
            client.list()
            client.tree()
        resident = _resident(daemon.pid)
        for number in range(1, _WORKERS + 1):
            client.attach(f"disk-{number}")
        workers = [int(worker["pid"]) for worker in client.workers()]
        private = sum(private_bytes(pid) for pid in workers)
        busy = _resident(daemon.pid)
    yield Figure(
        "daemon-memory",
        f"fiskd, resident, {_FISKS} Fisks",
        value=Value.of([resident / MIB]),
        must=at_most(150, "MiB"),
        unit="MiB",
        detail=f"{busy / MIB:.0f} MiB with {len(workers)} of them attached",
    )
    yield Figure(
        "daemon-memory",
        f"{len(workers)} attached idle workers, private memory in all",
        value=Value.of([private / GIB]),
        must=at_most(3, "GiB"),
        unit="GiB",
    )


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


@row("acceptor")
def acceptor(bench: Bench) -> Iterator[Figure]:
    """The same worker over TCP: let in by the acceptor, and connected to directly."""
    home, size = _daemon_home(bench, "acceptor"), bench.effort.size
    with fiskd(home) as daemon, daemon.client() as client, ExitStack() as stack:
        for name in ("passed", "direct"):
            with Engine.open(home) as engine:
                engine.create(name, size)
                fill(engine, name, size)
        passed = client.attach("passed").uris[1]
        served = stack.enter_context(bench.serve_tcp(home, "direct"))
        contestants = {
            name: partial(_iops, bench, Target.nbd(uri))
            for name, uri in (("through the acceptor", passed), ("direct", served.uri))
        }
        for contestant in contestants.values():
            contestant()
        samples = take_turns(contestants, 2 * bench.effort.rounds, "IOPS")
    yield samples.compare(
        "acceptor", "4 KiB random read, QD 32, over TCP", "through the acceptor", "direct", at_least(0.98)
    )


def _iops(bench: Bench, target: Target) -> float:
    return bench.load(target, READ_4K).iops

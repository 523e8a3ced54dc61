# SPDX-License-Identifier: Apache-2.0
"""Rows on the engine's verbs: clone, snapshot and delete, and the pause a snapshot makes under load."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from bench.context import GIB, Bench
from bench.figures import Figure, Must, Value, at_most, show
from bench.peers import Server
from bench.processes import MIB, BenchFailed
from bench.rows import row
from fisk_core.engine import Engine

_PAGE = 4 * MIB
_TIMES = 30


def milliseconds(action: Callable[..., object], *arguments: object, **options: object) -> float:
    """Give how long ``action`` takes."""
    start = time.perf_counter()
    action(*arguments, **options)
    return (time.perf_counter() - start) * 1e3


def _half_written(engine: Engine, name: str, size: int, pages: int) -> None:
    """Create a live Fisk; in ``pages`` of its map pages, evenly spread, every other 64 KiB are written."""
    engine.create(name, size)
    chunk = bytes(range(256)) * 256
    step = max(size // pages // _PAGE, 1) * _PAGE
    with engine.open_disk(name, writable=True) as disk:
        for page in range(0, step * pages, step):
            for offset in range(page, page + _PAGE, 2 * len(chunk)):
                disk.write(offset, chunk)
        disk.flush()


@row("verbs")
def verbs(bench: Bench) -> Iterator[Figure]:
    """Clone and snapshot as calls of the engine."""
    scale = 10 if bench.effort.rounds > 1 else 1
    cases = [
        (f"{scale} GiB, half written", scale * GIB, scale * GIB // _PAGE, at_most(3, "ms")),
        (f"{scale} GiB, nothing written", scale * GIB, 1, None),
        ("1 TiB, 2.5 GiB of it written" if scale > 1 else "1 TiB", 1024 * GIB, scale * 128, None),
    ]
    with bench.engine() as engine:
        for number, (what, size, pages, must) in enumerate(cases):
            name = f"verbs{number}"
            _half_written(engine, name, size, pages)
            yield _line("verbs", f"snapshot, {what}", _snapshots(engine, name), must)
            yield _line("verbs", f"clone, {what}", _clones(engine, f"{name}@0"), must)
            engine.delete(name)


def _line(name: str, what: str, samples: list[float], must: Must | None) -> Figure:
    return Figure(name, what, value=Value.of(samples), must=must, unit="ms", samples={"fisk": samples})


def _snapshots(engine: Engine, name: str) -> list[float]:
    """Time snapshots of a Fisk written to before each of them."""
    taken = []
    for number in range(_TIMES):
        taken.append(milliseconds(engine.snapshot, name, f"{name}@{number}"))
        with engine.open_disk(name, writable=True) as disk:
            disk.write(number * MIB, b"x" * MIB)
            disk.flush()
    return taken


def _clones(engine: Engine, frozen: str) -> list[float]:
    return [milliseconds(engine.clone, frozen, f"{frozen}-clone{number}") for number in range(_TIMES)]


@row("many-clones")
def many_clones(bench: Bench) -> Iterator[Figure]:
    """A thousand clones of a template, and the template's end."""
    clones, deletions = [], []
    count = 1000
    with bench.engine() as engine:
        for number in range(bench.effort.rounds):
            template = f"template{number}"
            _half_written(engine, template, 1 * GIB, 64)
            engine.set(template, frozen=True)
            clones.append(milliseconds(engine.clone, template, f"{template}-clone", count=count) / 1e3)
            deletions.append(milliseconds(engine.delete, template))
    yield Figure(
        "many-clones",
        f"{count} clones in one call",
        value=Value.of(clones),
        must=at_most(2, "s"),
        unit="s",
        samples={"fisk": clones},
    )
    yield _line("many-clones", f"delete the template under {count} clones", deletions, at_most(50, "ms"))


@row("pause")
def pause(bench: Bench) -> Iterator[Figure]:
    """The longest gap between completions while snapshots are taken under random writes."""
    name = bench.filled("paused")
    times = 5 if bench.effort.rounds > 1 else 2
    with bench.serve(name) as server, _Probe(server, seconds=2 + times) as probe:
        time.sleep(1)  # a second without snapshots: what the machine does by itself
        calm_until = time.monotonic_ns()
        windows = []
        with bench.engine() as engine:
            for number in range(times):
                start = time.monotonic_ns()
                engine.snapshot(name, f"paused@{number}")
                windows.append((start, time.monotonic_ns()))
                time.sleep(max(0, 1 - (time.monotonic_ns() - start) / 1e9))
        gaps, rate = probe.result()
    pauses = [_longest(gaps, start, end) for start, end in windows]
    calm = _longest(gaps, 0, calm_until)
    took = Value.of([(end - start) / 1e6 for start, end in windows])
    yield Figure(
        "pause",
        "longest pause while a snapshot is taken under 4 KiB random writes, QD 32",
        value=Value(max(pauses), min(pauses), max(pauses)),
        must=at_most(20, "ms"),
        unit="ms",
        detail=f"{show(rate, 'IOPS')}; longest gap before: {show(calm, 'ms')}; call: {show(took.main, 'ms')}",
        samples={"pause": pauses},
    )


def _longest(gaps: list[tuple[int, int]], start: int, end: int) -> float:
    """Give the longest of the gaps that touch the time from ``start`` to ``end``, in ms."""
    return max(((b - a) / 1e6 for a, b in gaps if a <= end and b >= start), default=1.0)


class _Probe:
    """bench.probe as a process."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.probe", server.uri, str(seconds)], stdout=subprocess.PIPE, text=True
        )

    def result(self) -> tuple[list[tuple[int, int]], float]:
        """Wait; gives the gaps and completions per second."""
        said, _ = self._process.communicate(timeout=self._seconds + 30)
        if self._process.returncode:
            raise BenchFailed("the probe failed")
        found = json.loads(said)
        return [(a, b) for a, b in found["gaps"]], found["completions"] / self._seconds

    def __enter__(self) -> "_Probe":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

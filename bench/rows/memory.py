# SPDX-License-Identifier: Apache-2.0
"""Rows on memory: an idle worker, and the map of a large Fisk written all over."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.context import GIB, Bench
from bench.figures import Figure, Must, Value, at_most
from bench.peers import Server
from bench.processes import MIB, private_bytes
from bench.rows import row
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote

_PAGE = 4 * MIB
_BLOCK = 4096


def _private(server: Server) -> float:
    return private_bytes(server.pid) / MIB


@row("idle-worker")
def idle_worker(bench: Bench) -> Iterator[Figure]:
    """Private memory of a worker, forked from a zygote as a supervisor does and started by itself."""
    limit: Must | None = at_most(12, "MiB")
    name = bench.filled("hot")
    for how, start in (("forked from a zygote", _forked), ("`fisk serve`", Bench.serve)):
        with start(bench, name) as server:
            time.sleep(0.5)
            fresh = _private(server)
            _touch(server, bench.effort.size, writes_per_page=1)
            used = _private(server)
        yield _megabytes("idle-worker", f"idle worker, private memory, {how}", fresh, limit)
        yield _megabytes("idle-worker", "the same after 4 KiB writes in every map page", used, None)
        limit = None


def _megabytes(name: str, what: str, found: float, must: Must | None, detail: str = "") -> Figure:
    return Figure(name, what, value=Value.of([found]), must=must, unit="MiB", detail=detail)


@contextmanager
def _forked(bench: Bench, name: str) -> Iterator[Server]:
    """Serve our Fisk ``name`` by a worker that a zygote forks."""
    address = bench.sockets / "forked.sock"
    with bench.engine() as engine, engine.acquire(name, writable=True) as lock, Zygote() as zygote:
        spec = engine.disk_spec(engine.get(name), read_only=False)
        pid, uris = zygote.spawn(spec, ServeOptions(unix=str(address)), lock.fd)
        try:
            yield Server(uris[0], address, pid)
        finally:
            os.kill(pid, signal.SIGTERM)
            zygote.wait(pid)


@row("resident-map")
def resident_map(bench: Bench) -> Iterator[Figure]:
    """What the map adds to a worker's private memory once every page of it is an array."""
    size = 100 * GIB
    with bench.engine() as engine:
        engine.create("large", size)
    with bench.serve("large") as server:
        _touch(server, _PAGE, writes_per_page=64)  # buffers are made when first used
        before = _private(server)
        _touch(server, size, writes_per_page=2)
        peak = _private(server) - before
        time.sleep(1)  # a flush of so many changes holds a copy of them for a moment
        found = _private(server) - before
    with bench.engine() as engine:
        engine.delete("large")
    what = "resident map, random 4 KiB writes to every page of 100 GiB"
    detail = f"{size // _PAGE} pages, 2 writes in each, then a flush; at its end {peak:.1f} MiB"
    yield _megabytes("resident-map", what, found, at_most(64, "MiB"), detail)


def _touch(server: Server, size: int, writes_per_page: int) -> None:
    """Write random blocks of every page, the pages in random order."""
    pages = list(range(0, size, _PAGE)) * writes_per_page
    random.Random(4).shuffle(pages)
    data = random.randbytes(_BLOCK)
    with NbdClient.connect(server.uri, depth=32) as client:
        client.write_many((page + random.randrange(0, _PAGE, _BLOCK), data) for page in pages)
        client.flush()

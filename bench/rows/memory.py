# SPDX-License-Identifier: Apache-2.0
"""Rows on memory: an idle worker, and the map of a large Fisk written all over."""

import random
from collections.abc import Iterator

from bench.context import GIB, Bench
from bench.figures import Figure, Value, at_most
from bench.peers import Server
from bench.processes import MIB, private_bytes
from bench.rows import row
from fisk_core.dataplane.client import NbdClient

_PAGE = 4 * MIB
_BLOCK = 4096


def _private(server: Server) -> float:
    return private_bytes(server.pid) / MIB


@row("idle-worker")
def idle_worker(bench: Bench) -> Iterator[Figure]:
    """Private memory of a worker that was just started, and after it was used."""
    with bench.serve(bench.filled("hot")) as server:
        fresh = _private(server)
        _touch(server, bench.effort.size, writes_per_page=1)
        used = _private(server)
    limit = at_most(12, "MiB")
    for what, found in (
        ("idle worker, private memory", fresh),
        ("the same after 4 KiB writes all over", used),
    ):
        yield Figure("idle-worker", what, value=Value.of([found]), must=limit, unit="MiB")
        limit = None


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
        found = _private(server) - before
    with bench.engine() as engine:
        engine.delete("large")
    yield Figure(
        "resident-map",
        "resident map, random 4 KiB writes to every page of 100 GiB",
        value=Value.of([found]),
        must=at_most(64, "MiB"),
        unit="MiB",
        detail=f"{size // _PAGE} pages, 2 writes in each",
    )


def _touch(server: Server, size: int, writes_per_page: int) -> None:
    """Write random blocks of every page, the pages in random order."""
    pages = list(range(0, size, _PAGE)) * writes_per_page
    random.Random(4).shuffle(pages)
    data = random.randbytes(_BLOCK)
    with NbdClient.connect(server.uri, depth=32) as client:
        client.write_many((page + random.randrange(0, _PAGE, _BLOCK), data) for page in pages)
        client.flush()

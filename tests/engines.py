# SPDX-License-Identifier: Apache-2.0
"""Engines for tests: tiny geometry, and Fisks served by real workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.engine import Engine
from fisk_core.model import Fisk

BLOCK = 512
PAGE = 2048
MIB = 1 << 20
TINY = {"block_size": BLOCK, "page_size": PAGE}
"""4 blocks in a page: borders are hit by little data."""


def make_volume(engine: Engine, name: str = "volume", size: int = MIB, content: bytes = b"") -> Fisk:
    """Make a Fisk that begins with ``content``."""
    fisk = engine.create(name, size, **TINY)
    if content:
        write(engine, name, 0, content)
    return fisk


def write(engine: Engine, ref: str, offset: int, data: bytes) -> None:
    with engine.open_disk(ref, writable=True) as disk:
        disk.write(offset, data)


def read(engine: Engine, ref: str, offset: int, length: int) -> bytes:
    with engine.open_disk(ref) as disk:
        return disk.read(offset, length)


@contextmanager
def serving(engine: Engine, ref: str) -> Iterator[tuple[Worker, NbdClient]]:
    """Serve a live Fisk from a worker process, with a client connected."""
    fisk = engine.get(ref)
    with engine.acquire(ref, True) as lock:
        options = ServeOptions(
            unix=str(engine.home.socket(fisk.id)), control=str(engine.home.control(fisk.id)), announce=True
        )
        worker = start_worker(engine.disk_spec(fisk, False), lock_fd=lock.fd, options=options)
    with worker, NbdClient.connect(worker.uri) as client:
        yield worker, client


def paths_in(pool: Path, folder: str) -> list[str]:
    """Give the names of the files below one folder of a file pool."""
    return sorted(path.name for path in (pool / folder).rglob("*") if path.is_file())

# SPDX-License-Identifier: Apache-2.0
"""Reading a whole Fisk: from its layers, or, while another process writes it, through its worker.

A frozen Fisk, and a live one nobody writes, cannot change while it is read here: its lock is held.  What a
worker is asked for while a guest writes is as consistent as a disk pulled from a running machine; take a
snapshot first where that matters.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fisk_core.dataplane import control, protocol
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.errors import InUse, NotFound, from_oserror
from fisk_core.files import scratch_directory
from fisk_core.model import Fisk
from fisk_core.pools.copying import copy_range
from fisk_core.services.filling import Meter
from fisk_core.services.sources import CHUNK, pieces

if TYPE_CHECKING:
    from fisk_core.engine.engine import Engine

_WINDOW = 64 << 20  # bytes of map looked at in one go
_ATTEMPTS = 5


class Reader(ABC):
    """A Fisk of ``size`` bytes, opened for reading from start to end."""

    size: int

    @abstractmethod
    def parts(self) -> Iterator[tuple[int, memoryview]]:
        """Give (offset, data) ascending, all else being zeros; ``data`` is good until the next step."""

    def copy_into(self, fd: int, meter: Meter) -> None:
        """Write what is not a hole into an empty file."""
        for offset, data in self.parts():
            try:
                while data:
                    count = os.pwrite(fd, data, offset)
                    offset, data = offset + count, data[count:]
            except OSError as exc:
                raise from_oserror(exc, "write the file") from exc
            meter.at(offset)


class DiskReader(Reader):
    """Reads layers directly."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.size = disk.size

    def _data(self) -> Iterator[tuple[int, int]]:
        return ((offset, length) for offset, length, owner in self._disk.status(0, self.size) if owner)

    def parts(self) -> Iterator[tuple[int, memoryview]]:
        block = self._disk.block_size
        chunk = max(CHUNK, block)
        buffer = memoryview(bytearray(chunk))
        for offset, length in pieces(self._data(), block, chunk, self.size):
            self._disk.read_into(buffer[:length], offset)
            yield offset, buffer[:length]

    def copy_into(self, fd: int, meter: Meter) -> None:
        """Let the kernel copy from file to file; it shares the extents where the file system can."""
        if self._disk.layers.checked is not None:  # somebody must look at what is copied
            super().copy_into(fd, meter)
            return
        window = max(_WINDOW, self._disk.block_size)
        for offset, length in pieces(self._data(), self._disk.block_size, window, self.size):
            for source, start, count in self._disk.plan(offset, length):
                if source >= 0:
                    copy_range(source, start, fd, start, count)
                meter.at(start + count)


class NbdReader(Reader):
    """Reads from the worker that serves the Fisk."""

    def __init__(self, client: NbdClient) -> None:
        self._client = client
        self.size = client.size

    def parts(self) -> Iterator[tuple[int, memoryview]]:
        client = self._client
        data = (
            (offset, length) for offset, length, flags in client.extents() if not flags & protocol.STATE_ZERO
        )
        chunk = min(CHUNK, client.info.maximum)
        return client.read_many(pieces(data, client.info.minimum, chunk, self.size))


@contextmanager
def reading(engine: "Engine", fisk: Fisk) -> Iterator[Reader]:
    """Open a Fisk for reading; raises InUse when a process writes it that cannot be asked."""
    uri = None
    try:
        disk = engine.open_disk(fisk.id)
    except InUse as exc:
        uri = served_uri(engine, fisk, exc)
    if uri is None:
        with disk:
            yield DiskReader(disk)
    else:
        with NbdClient.connect(uri, contexts=(protocol.CONTEXT_ALLOCATION,)) as client:
            yield NbdReader(client)


def served_uri(engine: "Engine", fisk: Fisk, in_use: InUse) -> str:
    """Give the URI of the worker that writes the Fisk; raises ``in_use`` when there is none without TLS."""
    plain = [uri for uri in uris_of(engine, fisk) if uri.startswith(("nbd:", "nbd+unix:"))]
    if not plain:
        raise in_use
    return plain[0]


def uris_of(engine: "Engine", fisk: Fisk) -> list[str]:
    """Give the URIs of the worker that serves the Fisk, none where there is none."""
    try:
        status = control.call(engine.home.control(fisk.id), {"op": "status"})
    except NotFound:
        return []
    return [str(uri) for uri in status["uris"]]


@contextmanager
def serving(engine: "Engine", fisk: Fisk) -> Iterator[str]:
    """Give an NBD URI of the Fisk: of the worker that serves it already, or of one of our own, read-only."""
    try:
        lock = engine.acquire(fisk.id, writable=False)
    except InUse as exc:
        yield served_uri(engine, fisk, exc)
        return
    with ExitStack() as stack:
        with lock:
            folder = stack.enter_context(scratch_directory())
            worker = stack.enter_context(_start(engine, fisk, os.path.join(folder, "nbd"), lock.fd))
        yield worker.uri


def _start(engine: "Engine", fisk: Fisk, path: str, lock_fd: int) -> Worker:
    for attempt in range(_ATTEMPTS):
        try:
            options = ServeOptions(unix=path, announce=True, parent=os.getpid())
            return start_worker(engine.disk_spec(fisk, read_only=True), lock_fd=lock_fd, options=options)
        except NotFound:
            # A map of the chain below was just consolidated, and what it no longer needs removed.
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.05 * attempt)
    raise AssertionError("not reached")

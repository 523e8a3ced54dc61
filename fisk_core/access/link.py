# SPDX-License-Identifier: Apache-2.0
"""Connections to a worker that outlast it: requests wait for its successor and are made again.

Every request may be repeated.  What a worker that was killed had acknowledged is not lost, flushed or not:
its journal (``blockmap.journal``) has it, and its successor reads that before it listens.
"""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import NotFound, ProtocolError

CONNECTIONS = 4
RECONNECT_SECONDS = 60.0
"""How long requests wait for a worker that is being restarted, before they fail."""
_PAUSE_SECONDS = 0.05
_BROKEN = (ProtocolError, NotFound)
"""What a connection says that was lost, or could not be made."""

T = TypeVar("T")


class Link:
    """Up to CONNECTIONS connections to one export, for as many threads; more threads wait."""

    def __init__(self, uri: str, patience: float = RECONNECT_SECONDS) -> None:
        """Connect; raises NotFound when nobody listens."""
        self.uri, self.patience = uri, patience
        self.size = 0
        self._generation = 0
        self._idle: queue.LifoQueue[tuple[int, NbdClient] | None] = queue.LifoQueue()
        first = (0, self._connect())
        for each in (*[None] * (CONNECTIONS - 1), first):
            self._idle.put(each)

    def close(self) -> None:
        """Close every connection; nothing may be under way."""
        while not self._idle.empty():
            if found := self._idle.get_nowait():
                found[1].close()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; gives the bytes read, fewer only at the end."""
        length = max(0, min(len(buffer), self.size - offset))
        if length:
            self._do(lambda client: client.read_into(offset, buffer[:length]))
        return length

    def write(self, offset: int, data: bytes) -> None:
        self._do(lambda client: client.write(offset, data))

    def zero(self, offset: int, length: int, *, no_hole: bool) -> None:
        """Make the range read as zeros; ``no_hole`` keeps it allocated."""
        self._do(lambda client: client.zero(offset, length, no_hole=no_hole))

    def flush(self) -> None:
        """Make durable what was answered before."""
        self._do(lambda client: client.flush())

    def refresh(self) -> None:
        """Learn the present size; connections of before do not know it and are not used again."""
        self._generation += 1
        self._do(lambda client: None)

    def _connect(self) -> NbdClient:
        client = NbdClient.connect(self.uri)
        self.size = client.info.size
        return client

    def _do(self, work: Callable[[NbdClient], T]) -> T:
        """Do it, as often as it takes; raises what the worker says, or what kept us from reaching it."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with self._using() as client:
                    return work(client)
            except _BROKEN:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)

    @contextmanager
    def _using(self) -> Iterator[NbdClient]:
        """Give a connection for one request; one that failed is not used again."""
        found = self._idle.get()
        generation = self._generation
        try:
            if found is not None and found[0] != generation:
                found[1].close()
                found = None
            found = found or (generation, self._connect())
            yield found[1]
        except _BROKEN:
            if found is not None:
                found[1].close()
            found = None
            raise
        finally:
            self._idle.put(found)

# SPDX-License-Identifier: Apache-2.0
"""Connections to a worker that outlast it: when it is restarted, nothing that was acknowledged is missing.

A worker that is killed forgets the writes nobody had flushed yet, although it had acknowledged them, as a
disk does that loses power.  Those who use a file do not know that there was a disk to lose power, so all
changes since the last flush are kept here, and made again through the new connection before anything else
happens.  What is kept is bounded: when it grows too much it is flushed.

Every change is idempotent, and while changes are repeated nothing else is under way.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import NotFound, ProtocolError

LOG = logging.getLogger(__name__)

CONNECTIONS = 4
KEPT_BYTES = 64 << 20
KEPT_CHANGES = 1 << 16
RECONNECT_SECONDS = 60.0
"""How long requests wait for a worker that is being restarted, before they fail."""
_PAUSE_SECONDS = 0.05

T = TypeVar("T")
Change = tuple[int, Callable[[NbdClient], None]]
"""bytes it keeps in memory, and what makes it (again)"""
_BROKEN = (ProtocolError, NotFound)


class Link:
    """Up to CONNECTIONS connections to one export, for several threads."""

    def __init__(self, uri: str, patience: float = RECONNECT_SECONDS) -> None:
        """Connect; raises NotFound when nobody listens."""
        self.uri, self.patience = uri, patience
        self._idle: queue.LifoQueue[NbdClient | None] = queue.LifoQueue()
        self._changed = threading.Condition()
        self._active = 0
        self._repairing = False
        self._generation = 0
        self._kept: list[Change] = []
        self._flushed = 0  # changes that were dropped from the beginning of _kept, ever
        self._kept_bytes = 0
        first = NbdClient.connect(uri)
        self.size = first.info.size
        self._refill(first)

    def close(self) -> None:
        """Close every connection; nothing may be under way."""
        while not self._idle.empty():
            client = self._idle.get_nowait()
            if client is not None:
                client.close()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; gives the bytes read, fewer only at the end."""
        length = max(0, min(len(buffer), self.size - offset))
        if length:
            self._do(lambda client: client.read_into(offset, buffer[:length]))
        return length

    def write(self, offset: int, data: bytes) -> None:
        self._change(len(data), lambda client: client.write(offset, data))

    def zero(self, offset: int, length: int, *, no_hole: bool) -> None:
        """Make the range read as zeros; ``no_hole`` keeps it allocated."""
        self._change(0, lambda client: client.zero(offset, length, no_hole=no_hole))

    def flush(self) -> None:
        """Make durable what was answered before; raises FiskError."""
        while True:
            with self._changed:
                end, generation = self._flushed + len(self._kept), self._generation
            self._do(lambda client: client.flush())
            with self._changed:
                if generation == self._generation:
                    self._forget(end)
                    return
                # Else they were repeated meanwhile, perhaps after this flush.

    def _forget(self, end: int) -> None:
        """Drop the changes before number ``end``; another flush may have dropped some, or more."""
        count = max(0, end - self._flushed)
        self._kept_bytes -= sum(kept for kept, _ in self._kept[:count])
        del self._kept[:count]
        self._flushed += count

    def refresh(self) -> None:
        """Learn the present size, with connections that know it too."""
        self._repair(self._generation, time.monotonic() + self.patience, repeat=False)

    def _change(self, kept: int, make: Callable[[NbdClient], None]) -> None:
        self._do(make, (kept, make))
        if self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_CHANGES:
            self.flush()

    def _do(self, work: Callable[[NbdClient], T], change: Change | None = None) -> T:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                generation = self._generation
                with self._using() as client:
                    result = work(client)
                    if change is not None:
                        with self._changed:
                            self._kept.append(change)
                            self._kept_bytes += change[0]
                    return result
            except _BROKEN:
                if time.monotonic() > deadline:
                    raise
            self._repair(generation, deadline)

    @contextmanager
    def _using(self) -> Iterator[NbdClient]:
        """Give a connection for one request; one that failed is not used again."""
        with self._changed:
            self._changed.wait_for(lambda: not self._repairing)
            self._active += 1
        client = None
        try:
            client = self._idle.get() or NbdClient.connect(self.uri)
            yield client
        except ProtocolError:
            if client is not None:
                client.close()
            client = None
            raise
        finally:
            self._idle.put(client)
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _repair(self, generation: int, deadline: float, *, repeat: bool = True) -> None:
        """Connect anew and repeat what was not flushed, while nobody else does anything."""
        with self._changed:
            if self._repairing or generation != self._generation:
                self._changed.wait_for(lambda: not self._repairing)
                return
            self._repairing = True
            self._changed.wait_for(lambda: not self._active)
        try:
            client = self._again(deadline, self._kept if repeat else [])
            self.close()
            self._refill(client)
            self.size = client.info.size
        finally:
            with self._changed:
                self._generation += 1
                self._repairing = False
                self._changed.notify_all()

    def _again(self, deadline: float, changes: Sequence[Change]) -> NbdClient:
        while True:
            try:
                return self._repeated(changes)
            except _BROKEN:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def _repeated(self, changes: Sequence[Change]) -> NbdClient:
        client = NbdClient.connect(self.uri)
        try:
            for _, make in changes:
                make(client)
        except BaseException:
            client.close()
            raise
        LOG.info("connected to %s again; %d changes repeated", self.uri, len(changes))
        return client

    def _refill(self, client: NbdClient) -> None:
        """Put one connection in, and places for the others, made when first needed."""
        for _ in range(CONNECTIONS - 1):
            self._idle.put(None)
        self._idle.put(client)

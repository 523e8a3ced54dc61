# SPDX-License-Identifier: Apache-2.0
"""Reads of what is not cached, without a thread for each and without ever waiting on the loop.

A read with RWF_NOWAIT that finds nothing cached has made the kernel begin to read it.  So the reads of a
batch all start at once; the next rounds of the loop try them again, and most are there by then.  What is
still missing after PATIENCE, and what a file system cannot be asked this way, goes to a thread.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from fisk_core import errors
from fisk_core.dataplane.connection import MAX_HELD, Connection
from fisk_core.dataplane.disk import read_extent
from fisk_core.dataplane.layers import HOLE
from fisk_core.dataplane.transmission import SMALL, Request

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

PATIENCE = 0.0005
"""seconds a read is tried again before a thread waits for it"""
THREADS = 8
_BATCH = 64


class ColdReads:
    """The reads that wait for the disk."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._waiting: deque[Request] = deque()
        server.loop.rounds.append(self.retry)

    def add(self, request: Request) -> None:
        """Take a read that was tried once; it will be answered."""
        request.conn.began()
        request.since = time.monotonic()
        if request.length > self._server.disk.block_size:
            try:
                self._advise(request)
            except errors.FiskError as exc:
                request.conn.ended()
                self._server.transmission.fail(request, exc)
                return
        self._waiting.append(request)

    def _advise(self, request: Request) -> None:
        """Have the whole range read, not only the part the first try came upon."""
        for fd, offset, length in self._server.disk.plan(request.offset, request.length):
            if fd != HOLE:
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)

    def retry(self) -> bool:
        """Answer what is cached by now; True while reads are worth another round at once."""
        if not self._waiting:
            return False
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        rest: list[Request] = []
        for conn, requests in groupby(batch, attrgetter("conn")):
            ours = list(requests)
            if conn.closed:
                missing: list[Request] = []
            else:
                missing = self._server.guard(conn, partial(self._answer, ours)) or []
            rest += missing
            for _ in range(len(ours) - len(missing)):
                conn.ended()
        deadline = time.monotonic() - PATIENCE
        late = [request for request in rest if request.since < deadline]
        self._waiting.extendleft(reversed([request for request in rest if request.since >= deadline]))
        for request in late:
            self._fetch(request)
        if len(rest) == len(batch):
            os.sched_yield()
        return bool(self._waiting)

    def _answer(self, requests: list[Request]) -> list[Request]:
        """Answer reads of one connection; gives those that still are not cached."""
        transmission = self._server.transmission
        missing = transmission.answer_small(request for request in requests if request.length <= SMALL)
        for request in requests:
            if request.length > SMALL:
                try:
                    transmission.read_now(request, os.RWF_NOWAIT)
                except BlockingIOError:
                    missing.append(request)
                except errors.FiskError as exc:
                    transmission.fail(request, exc)
        return missing

    def _fetch(self, request: Request) -> None:
        """Let a thread wait for the data; where it lies is looked up here, on the map's own thread."""
        disk = self._server.disk
        plan = disk.plan(request.offset, request.length)
        disk.layers.pinned += 1
        request.conn.began(request.length)

        def read() -> memoryview:
            data = memoryview(bytearray(request.length))
            for fd, offset, length in plan:
                read_extent(fd, data[offset - request.offset :][:length], offset)
            return data

        def done(data: memoryview | None, error: Exception | None) -> None:
            disk.layers.pinned -= 1
            transmission = self._server.transmission
            if error is not None:
                self._server.guard(request.conn, lambda: transmission.fail(request, error))
            elif data is not None:
                self._server.guard(request.conn, lambda: transmission.answer_data(request, data))
            request.conn.ended(request.length)
            request.conn.ended()

        self._server.loop.submit("read", THREADS, read, done)


class Deferred:
    """Changes that must wait: for the rest of a block they write in part, or for a range being punched."""

    def __init__(self, server: "Server") -> None:
        self._server = server

    def add(self, request: Request) -> None:
        """Take a change that raised BlockingIOError; it is handled again when that may have passed."""
        if isinstance(request.payload, memoryview):
            request.payload = bytes(request.payload)
        request.tries += 1
        held = len(request.payload)
        request.conn.began(held)

        def done(_: None, error: Exception | None) -> None:
            if not request.conn.closed:
                self._server.guard(request.conn, lambda: self._again(request, error))
            request.conn.ended(held)

        if self._server.disk.discarding:
            # Behind the punches, on their own thread.
            self._server.loop.submit("discard", 1, lambda: None, done)
        else:
            self._server.loop.submit("read", THREADS, self._warm(request), done)

    def after_discards(self, conn: Connection) -> None:
        """Look at the inbox of ``conn`` again once the punches of now are done."""
        conn.began(MAX_HELD + 1)  # nothing more is received meanwhile
        self._server.loop.submit("discard", 1, lambda: None, lambda *_: conn.ended(MAX_HELD + 1))

    def _again(self, request: Request, error: Exception | None) -> None:
        if error is not None:
            self._server.transmission.fail(request, error)
        else:
            self._server.transmission.handle(request)

    def _warm(self, request: Request) -> Callable[[], None]:
        """Give a function that reads the first and last block of the request into the page cache."""
        disk, size = self._server.disk, self._server.disk.block_size
        edges = {request.offset // size, (request.offset + request.length - 1) // size}
        plan = [extent for block in sorted(edges) for extent in disk.plan(block * size, size)]
        disk.layers.pinned += 1

        def warm() -> None:
            try:
                for fd, offset, length in plan:
                    read_extent(fd, memoryview(bytearray(length)), offset)
            finally:
                disk.layers.pinned -= 1

        return warm

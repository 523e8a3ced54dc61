# SPDX-License-Identifier: Apache-2.0
"""Reads of what is not cached, without a thread for each and without ever waiting on the loop.

A read with RWF_NOWAIT that finds nothing cached has made the kernel begin to read it.  So the reads of a
batch all start at once; the next rounds of the loop try them again, and most are there by then.  What is
still missing after a while, and what a file system cannot be asked this way, goes to a thread.

Looking again and again is the quickest way to see what comes from a fast disk, and costs a core meanwhile.  A
disk that seldom answers within PATIENCE is a slow one: its reads go to threads after LITTLE_PATIENCE; should
it answer even within that, it is a fast one again.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fisk_core import errors
from fisk_core.dataplane.classes import USUAL
from fisk_core.dataplane.connection import Connection
from fisk_core.dataplane.disk import fill, read_extent
from fisk_core.dataplane.layers import HOLE
from fisk_core.dataplane.protocol import CMD_READ
from fisk_core.dataplane.transmission import Request, SmallRead

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

PATIENCE = 0.003
"""seconds a read is tried again before a thread waits for it"""
LITTLE_PATIENCE = 0.0002
"""the same where that is seldom worth it"""
_MEMORY = 32
"""reads after which what became of one before counts little"""
THREADS = 8


@dataclass(slots=True)
class Batch:
    """Small reads of one connection that were tried at one moment."""

    conn: Connection
    reads: list[SmallRead]
    since: float
    received: float


class ColdReads:
    """The reads that wait for the disk."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._small: list[Batch] = []
        self._large: list[Request] = []
        self._late = 0.0
        """share of the last reads that took longer than they were waited for"""
        self.windows = USUAL.window
        """bytes read ahead of a stream, at first and at most"""
        server.loop.rounds.append(self.retry)

    def add_small(self, conn: Connection, reads: list[SmallRead]) -> list[SmallRead]:
        """Take small reads that were tried once; they will be answered.  Gives a new empty list."""
        if not reads:
            return reads
        self._server.metrics.cold_reads += len(reads)
        conn.began(len(reads))
        self._small.append(Batch(conn, reads, time.monotonic(), conn.received))
        block = self._server.disk.block_size
        for _, offset, length in reads:
            if length > block or offset == conn.expected:
                self._have_read(conn, offset, length)
        _, offset, length = reads[-1]
        if not conn.window:
            conn.expected = offset + length
        return []

    def add(self, request: Request) -> None:
        """Take a large read that was tried once; it will be answered."""
        self._server.metrics.cold_reads += 1
        request.conn.began(1, request.length)
        request.since = time.monotonic()
        self._have_read(request.conn, request.offset, request.length)
        self._large.append(request)

    def _have_read(self, conn: Connection, offset: int, length: int) -> None:
        """Have the whole range read, not only the part a first try came upon, and more of a stream.

        A stream is told by its misses alone: the next one comes where the last window ended.
        """
        if offset == conn.expected:
            least, most = self.windows
            conn.window = min(most, max(least, 2 * conn.window))
        elif conn.window and conn.expected - conn.window <= offset < conn.expected:
            return  # it is on its way already
        else:
            conn.window = 0
        length = min(max(length, conn.window), self._server.disk.size - offset)
        conn.expected = offset + length
        with suppress(errors.FiskError, OSError):  # only advice: the read itself will tell
            for fd, start, count in self._server.disk.plan(offset, length):
                if fd != HOLE:
                    os.posix_fadvise(fd, start, count, os.POSIX_FADV_WILLNEED)

    def retry(self) -> bool:
        """Answer what is cached by now; True while reads are worth another round at once."""
        if not self._small and not self._large:
            return False
        deadline = time.monotonic() - (PATIENCE if self._late < 0.5 else LITTLE_PATIENCE)
        progress = self._retry_small(deadline)
        progress = self._retry_large(deadline) or progress
        if not progress:
            os.sched_yield()
        return bool(self._small or self._large)

    def _retry_small(self, deadline: float) -> bool:
        batches, self._small, progress = self._small, [], False
        for batch in batches:
            conn, before = batch.conn, len(batch.reads)
            answer = partial(self._server.transmission.answer_reads, conn, batch.reads, batch.received)
            batch.reads = [] if conn.closed else self._server.guard(conn, answer) or []
            progress = progress or len(batch.reads) < before
            self._note(before - len(batch.reads), late=False)
            if batch.reads and batch.since < deadline:
                self._note(len(batch.reads), late=True)
                for cookie, offset, length in batch.reads:
                    request = Request(conn, 0, CMD_READ, cookie, offset, length, received=batch.received)
                    self.fetch(request)
                batch.reads = []
            elif batch.reads:
                self._small.append(batch)
            conn.ended(before - len(batch.reads))
        return progress

    def _note(self, count: int, *, late: bool) -> None:
        """Remember whether reads came in time."""
        if count:
            self._late += (late - self._late) * min(1.0, count / _MEMORY)

    def _retry_large(self, deadline: float) -> bool:
        requests, self._large = self._large, []
        for request in requests:
            answered = request.conn.closed or self._server.guard(request.conn, partial(self._answer, request))
            if answered is False and request.since >= deadline:
                self._large.append(request)
                continue
            self._note(1, late=answered is False)
            if answered is False:
                self.fetch(request)
            request.conn.ended(1, request.length)
        return len(self._large) < len(requests)

    def _answer(self, request: Request) -> bool:
        """Answer a large read, also with an error; False when it is not cached yet."""
        try:
            self._server.transmission.read_now(request, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except errors.FiskError as exc:
            self._server.transmission.fail(request, exc)
        return True

    def fetch(self, request: Request) -> None:
        """Let a thread wait for the data; where it lies is looked up here, on the map's own thread."""
        disk = self._server.disk
        try:
            plan = disk.plan(request.offset, request.length)
        except errors.FiskError as exc:
            self._server.guard(request.conn, partial(self._server.transmission.fail, request, exc))
            return
        disk.layers.pinned += 1
        request.conn.began(1, request.length)
        live = disk.fds[disk.period.live] if disk.period is not None else HOLE
        changing = live != HOLE and any(fd == live for fd, _, _ in plan)

        def read() -> memoryview:
            data = memoryview(bytearray(request.length))
            fill(disk.layers, data, plan, request.offset)
            return data

        def done(data: memoryview | None, error: Exception | None) -> None:
            disk.layers.pinned -= 1
            transmission = self._server.transmission
            if isinstance(error, errors.Corrupt) and disk.period is not None and disk is self._server.disk:
                # It may have been written between the looks at data and checksum: not so on this thread.
                self._server.guard(request.conn, partial(transmission.read_again, request))
            elif error is not None:
                self._server.guard(request.conn, lambda: transmission.fail(request, error))
            elif data is not None and changing:
                # A write to the live layer beside the thread's read leaves parts of both in what was read.
                # It is cached now, and on this thread nobody writes meanwhile.
                self._server.guard(request.conn, partial(transmission.read_again, request))
            elif data is not None:
                self._server.guard(request.conn, lambda: transmission.answer_data(request, data))
            request.conn.ended(1, request.length)

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
        held, layers = len(request.payload), self._server.disk.layers
        plan = [] if self._server.disk.discarding else self._edges(request.offset, request.length)
        request.conn.began(1, held)
        layers.pinned += 1

        def done(_: None, error: Exception | None) -> None:
            layers.pinned -= 1
            if not request.conn.closed:
                self._server.guard(request.conn, lambda: self._again(request, error))
            request.conn.ended(1, held)

        if self._server.disk.discarding:
            # Behind the punches, on their own thread.
            self._server.loop.submit("discard", 1, lambda: None, done)
        else:
            self._server.loop.submit("read", THREADS, partial(_warm, plan), done)

    def hold(self, request: Request, offset: int, length: int) -> None:
        """Look at the inbox again when part of a write that is arriving may have got what it waits for.

        Raises what opening a layer raises.
        """
        conn, layers = request.conn, self._server.disk.layers
        punched = bool(self._server.disk.discarding)
        plan = [] if punched else self._edges(offset, length)
        request.tries += 1
        conn.stalled = True
        conn.began()
        layers.pinned += 1

        def done(_: None, error: Exception | None) -> None:
            layers.pinned -= 1
            conn.stalled = False
            conn.ended()  # what went wrong, the write will find out too

        if punched:
            self._server.loop.submit("discard", 1, lambda: None, done)
        else:
            self._server.loop.submit("read", THREADS, partial(_warm, plan), done)

    def _again(self, request: Request, error: Exception | None) -> None:
        if error is not None:
            self._server.transmission.fail(request, error)
        else:
            self._server.transmission.handle(request)

    def _edges(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Give where the first and last block of a range lie; raises what opening a layer raises."""
        disk, size = self._server.disk, self._server.disk.block_size
        edges = {offset // size, (offset + length - 1) // size}
        return [extent for block in sorted(edges) for extent in disk.plan(block * size, size)]


def _warm(plan: list[tuple[int, int, int]]) -> None:
    """Read extents into the page cache."""
    for fd, offset, length in plan:
        read_extent(fd, memoryview(bytearray(length)), offset)

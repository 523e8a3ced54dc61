# SPDX-License-Identifier: Apache-2.0
"""Flushes, one at a time and for everyone who waits: all requests that come while one runs share the next.

A flush covers every connection: it is answered only after all writes answered before it began are durable.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fisk_core import errors
from fisk_core.dataplane.disk import Disk, Flush
from fisk_core.dataplane.transmission import Request

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

Callback = Callable[[Exception | None], None]


class Flusher:
    """The flushes of one server, strictly in order: a sealed period's before any of the next one."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._running = False
        self._seals: list[tuple[Disk, Flush, Callback]] = []
        self._waiting: list[Callback] = []

    def request(self, request: Request) -> None:
        """Answer ``request`` once everything written until now is durable; at once for volatile data."""
        if self._answers_at_once():
            self._server.transmission.succeed(request)
            return
        request.conn.began()

        def answer(error: Exception | None) -> None:
            transmission = self._server.transmission
            if error is None:
                self._server.guard(request.conn, lambda: transmission.succeed(request))
            else:
                self._server.guard(request.conn, lambda: transmission.fail(request, error))
            request.conn.ended()

        self.flush(answer)

    def _answers_at_once(self) -> bool:
        server = self._server
        if not server.conduct.volatile or server.disk.failed or server.disk.read_only:
            return False
        # The guest may be about to go on at another host, which sees what is durable.
        return not (server.outgoing and server.outgoing.waiting)

    def flush(self, callback: Callback) -> None:
        """Call ``callback(error)`` once everything written until now is durable."""
        self._waiting.append(callback)
        self._next()

    def seal(self, disk: Disk, flush: Flush, callback: Callback) -> None:
        """Run the last flush of a period that ended, before any other."""
        self._seals.append((disk, flush, callback))
        self._next()

    def _next(self) -> None:
        if self._running:
            return
        if self._seals:
            disk, flush, callback = self._seals.pop(0)
            if disk.fenced:  # both periods are another host's now
                callback(errors.Fenced(f"Fisk {disk.spec.name}: {disk.failed}"))
                self._next()
            else:
                self._run(disk, flush, [callback])
        elif self._waiting:
            callbacks, self._waiting = self._waiting, []
            self._begin(callbacks)

    def _begin(self, callbacks: list[Callback]) -> None:
        disk = self._server.disk
        try:
            flush = None if disk.period is None and not disk.failed else disk.begin_flush()
        except errors.FiskError as exc:
            _tell(callbacks, exc)
            return
        if flush is None:
            _tell(callbacks, None)
        else:
            self._run(disk, flush, callbacks)

    @property
    def idle(self) -> bool:
        """No flush is under way or waits."""
        return not (self._running or self._seals or self._waiting)

    def _run(self, disk: Disk, flush: Flush, callbacks: list[Callback]) -> None:
        self._running = True

        def done(_: None, error: Exception | None) -> None:
            self._running = False
            self._server.metrics.syncs += error is None
            disk.end_flush(flush, error)
            if error is not None:
                self._server.note_failure(error)
            _tell(callbacks, error)
            self._next()

        self._server.loop.submit("flush", 1, flush.run, done)


def _tell(callbacks: list[Callback], error: Exception | None) -> None:
    for callback in callbacks:
        callback(error)

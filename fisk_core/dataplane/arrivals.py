# SPDX-License-Identifier: Apache-2.0
"""Large writes, written as they arrive instead of being collected first.

Whole blocks go on to the live layer while they are in the processor's cache; from a plain socket the
kernel moves them (splice(2)) and they are copied once instead of twice.  Only whole blocks are written, but
for the ends of the range, so a client that goes away in the middle leaves no block torn.  And no client makes
a worker hold more of a write than its inbox, whatever length it announces.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core import errors
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.connection import INBOX, Connection
from fisk_core.dataplane.transmission import Request, patience

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

STREAM_AT = 128 << 10
"""bytes from which a write is not collected"""
_PIPE = 1 << 20
_MOVE_NONBLOCK = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


@dataclass(slots=True)
class Stream:
    """A large write under way: ``left`` bytes still come for ``offset``; an error is told at the end."""

    request: Request
    offset: int
    left: int
    error: errors.FiskError | None = None


class Arrivals:
    """The large writes of one server's connections, at most one of each."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._pipe: tuple[int, int] | None = None

    def begin(self, request: Request, body: int) -> int:
        """Take a write of which part has yet to come; gives where the inbox is to be read on."""
        conn = request.conn
        if request.length < STREAM_AT or self._server.disk.block_size > INBOX:
            conn.need(nbd.REQUEST.size + request.length)
            return body - nbd.REQUEST.size
        stream = conn.stream = Stream(request, request.offset, request.length)
        try:
            self._server.transmission.check(request)
        except errors.FiskError as exc:
            stream.error = exc
        return self.go_on(conn, stream, body)

    def refuse(self, request: Request, body: int, error: errors.FiskError) -> int:
        """Answer a write with ``error`` once its data has come; gives where the inbox is to be read on.

        Clients that are still sending do not expect an answer yet: libnbd takes one for an answer to nothing,
        and gives the connection up.
        """
        stream = request.conn.stream = Stream(request, request.offset, request.length, error)
        return self.go_on(request.conn, stream, body)

    def go_on(self, conn: Connection, stream: Stream, position: int) -> int:
        """Write what is in the inbox from ``position`` up to the end of a block; gives where that is."""
        count = min(stream.left, conn.have - position)
        if stream.error is None and count < stream.left:
            count = max(0, count - (stream.offset + count) % self._server.disk.block_size)
        try:
            if count and stream.error is None:
                self._write(conn, stream, position, count)
        except BlockingIOError:
            return position
        except errors.FiskError as exc:
            self._give_up(stream, exc)
        self._advance(conn, stream, count)
        return position + count

    def _give_up(self, stream: Stream, error: errors.FiskError) -> None:
        """Write nothing more of it; a Fisk that was made smaller meanwhile has no space for it."""
        request = stream.request
        if request.offset + request.length > self._server.disk.size:
            error = errors.NoSpace("the disk ends within the request by now")
        stream.error = error

    def _write(self, conn: Connection, stream: Stream, position: int, count: int) -> None:
        """Write part of the inbox; raises BlockingIOError where it is to be looked at again later."""
        data = conn.view[position : position + count]
        try:
            self._server.disk.write(stream.offset, data, patience(stream.request))
        except BlockingIOError:
            self._server.deferred.hold(stream.request, stream.offset, count)
            raise
        stream.request.tries = 0

    def _advance(self, conn: Connection, stream: Stream, count: int) -> None:
        stream.offset, stream.left = stream.offset + count, stream.left - count
        if stream.left:
            return
        conn.stream = None
        if stream.error:
            self._server.transmission.fail(stream.request, stream.error)
        else:
            self._server.transmission.done(stream.request)

    def receive(self, conn: Connection, stream: Stream) -> bool:
        """Receive for a plain socket, through a pipe; False when it must be received into the inbox.

        Raises BlockingIOError when nothing is there.
        """
        block, disk = self._server.disk.block_size, self._server.disk
        if stream.error or disk.discarding or conn.have >= block or disk.layers.checked is not None:
            return False
        if stream.offset % block:
            return False
        if conn.have:
            # The rest of a block that was cut; what follows it can be moved.
            count = conn.receive(min(block, stream.left) - conn.have)
            if conn.have < min(block, stream.left) or not count:
                return True
            conn.consume(self.go_on(conn, stream, 0))
            if conn.stream is None or conn.have:
                return True
        self._move(conn, stream)
        if conn.stream is stream and conn.have >= stream.left:
            conn.consume(self.go_on(conn, stream, 0))  # the range ends within its last block
        return True

    def _move(self, conn: Connection, stream: Stream) -> None:
        """Move what the socket has into the layer, and the part of a last block into the inbox."""
        source, sink = self._pipe or self._open_pipe()
        count = os.splice(conn.fd, sink, min(stream.left, _PIPE), flags=_MOVE_NONBLOCK)
        if not count:
            conn.close()
            return
        rest = count % self._server.disk.block_size
        whole = count - rest
        try:
            if whole:
                self._server.disk.splice(source, stream.offset, whole)
        except errors.FiskError as exc:
            self._give_up(stream, exc)
            self.close()  # what is left in it must not be the beginning of the next write
            rest = 0
            whole = count
        try:
            while conn.have < rest:
                conn.have += os.readv(source, [conn.view[conn.have : rest]])
        except OSError:
            self.close()
            raise
        self._advance(conn, stream, whole)

    def _open_pipe(self) -> tuple[int, int]:
        self._pipe = source, sink = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # a smaller pipe works too
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE)
        return source, sink

    def close(self) -> None:
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = None

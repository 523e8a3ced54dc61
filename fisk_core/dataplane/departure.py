# SPDX-License-Identifier: Apache-2.0
"""A worker hands everything over to its successor: clients, listeners, the Fisk's lock.

In this order, and what it is good for:

1. flush while requests go on, so that 4 has little to do;
2. look at no further request, take no connection: both wait in the kernel;
3. let what is under way finish; replies that the client does not take are handed over;
4. flush: the successor finds everything in the log and the layer;
5. send no further byte of a reply: what was not sent is the successor's;
6. send it everything, and wait for the successor (see :mod:`~fisk_core.dataplane.handover`).

Until the successor is in charge, every step can be taken back; nothing was given away but copies of
descriptors.  After that this process ends without touching anything.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fisk_core import errors
from fisk_core.dataplane.connection import Connection, FileSpan
from fisk_core.dataplane.descriptors import Descriptors
from fisk_core.dataplane.handover import Done, Offer
from fisk_core.dataplane.lines import Lines
from fisk_core.dataplane.parcel import Parcel

if TYPE_CHECKING:
    from fisk_core.dataplane.control import Control
    from fisk_core.dataplane.server import Server

_LOOK_SECONDS = 0.001


class Departure:
    """One attempt.  Raises InUse or ReadOnly when this is not the moment for it."""

    def __init__(self, server: "Server", control: "Control", fds: Descriptors, done: Done) -> None:
        _check(server)
        self._server, self._control, self._done = server, control, done
        self._offer = Offer(server.loop, fds.take_socket(), self._ended)
        self._held: list[Lines] = []
        self._frozen: list[Connection] = []
        self._over = False
        server.departure = self
        server.flusher.flush(self._flushed)

    def withdraw(self, why: errors.FiskError) -> None:
        """Go on as if nothing had happened."""
        self._offer.withdraw(why)

    def _flushed(self, error: Exception | None) -> None:
        if self._over or self._failed(error):
            return
        self._offer.hurry()
        self._server.pause("handover")
        for listener in self._server.listeners.values():
            listener.hold()
        self._held = list(self._control.lines)
        for lines in self._held:
            lines.hold()
        self._settle()

    def _settle(self) -> None:
        if self._over:
            return
        asked = sum(lines.asked for lines in self._held)  # one of them is the request to hand over
        if asked > 1 or not self._server.quiet:
            self._server.loop.later(_LOOK_SECONDS, self._settle)
        else:
            self._server.flusher.flush(self._send)

    def _failed(self, error: Exception | None) -> bool:
        """Withdraw because of an error, if there is one."""
        if error is not None:
            why = error if isinstance(error, errors.FiskError) else errors.PoolError(str(error))
            self.withdraw(why)
        return error is not None

    def _send(self, error: Exception | None) -> None:
        if self._over or self._failed(error):
            return
        self._frozen = list(self._server.connections)
        for conn in self._frozen:
            conn.freeze()
        try:
            with Parcel() as parcel:
                parcel.send(self._offer.sock, self._document(parcel))
        except OSError as exc:
            self._failed(errors.from_oserror(exc, "hand over"))
        except errors.FiskError as exc:
            self._failed(exc)

    def _ended(self, error: errors.FiskError | None) -> None:
        self._over = True
        if error is not None:
            for conn in self._frozen:
                conn.thaw()
            for listener in self._server.listeners.values():
                listener.go_on()
            for lines in self._held:
                lines.go_on()
        self._done(error)
        if error is not None:
            self._server.unpause("handover")

    def _document(self, parcel: Parcel) -> dict[str, Any]:
        server, options = self._server, self._server.options
        spec = replace(server.disk.spec, size=server.disk.size, attributes=dict(server.attributes))
        return {
            "spec": asdict(spec),
            "options": asdict(replace(options, lock=None)),
            "lock": None if options.lock is None else parcel.add_fd(options.lock),
            "metrics": server.metrics.counted(),
            "paused": server.is_paused("control"),
            "listeners": {
                kind: parcel.add_fd(listener.sock.fileno()) for kind, listener in server.listeners.items()
            },
            "control": [_pack_lines(lines, parcel) for lines in self._held if not lines.asked],
            "connections": list(_pack_all(server.connections, parcel)),
        }


def _check(server: "Server") -> None:
    """Raise when the server cannot be handed over."""
    if server.departure:
        raise errors.InUse("the worker is being handed over already")
    if server.refusing:
        raise errors.InUse(server.refusing)
    if server.turn:
        raise errors.InUse("a worker that waits for its turn cannot be handed over")
    if server.disk.failed:
        # A successor would find the disk in order, and not know what was lost.
        raise errors.ReadOnly(f"a worker whose disk failed cannot be handed over: {server.disk.failed}")


def _pack_lines(lines: Lines, parcel: Parcel) -> dict[str, Any]:
    return {
        "fd": parcel.add_fd(lines.sock.fileno()),
        "buffer": parcel.add_bytes(lines.buffer),
        "fds": [parcel.add_fd(fd) for fd in lines.fds],
    }


def _pack_all(connections: Iterable[Connection], parcel: Parcel) -> Iterable[dict[str, Any]]:
    for conn in connections:
        packed = pack(conn, parcel)
        if packed is not None:
            yield packed


def pack(conn: Connection, parcel: Parcel) -> dict[str, Any] | None:
    """Give what :func:`fisk_core.dataplane.succession.unpack` reads; None for what cannot be moved (TLS)."""
    start = conn.hand_over()
    if start is None:
        return None
    fields = {**asdict(start), "received": parcel.add_bytes(start.received)}
    return {
        "fd": parcel.add_fd(conn.fd),
        "start": fields,
        "leaving": conn.leaving,
        "stream": _pack_stream(conn),
        "outbox": [
            parcel.add_span(item.fd, item.offset, item.length)
            if isinstance(item, FileSpan)
            else parcel.add_bytes(item)
            for item in conn.outbox
        ],
    }


def _pack_stream(conn: Connection) -> dict[str, Any] | None:
    """Give the large write that is arriving: part of it is on the layer, the rest still comes."""
    if conn.stream is None:
        return None
    request, error = conn.stream.request, conn.stream.error
    return {
        "request": [request.flags, request.kind, request.cookie, request.offset, request.length],
        "offset": conn.stream.offset,
        "left": conn.stream.left,
        "error": error and [type(error).__name__, str(error)],
    }

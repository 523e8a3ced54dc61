# SPDX-License-Identifier: Apache-2.0
"""The operations of a worker's control socket; :mod:`~fisk_core.dataplane.lines` says how they are sent.

``status``, ``metrics``, ``attributes`` (attributes), ``switch`` (spec), ``resize`` (size, drop), ``barrier``,
``pause``, ``resume``, ``turn``, ``connection`` (name, read_only, received, said, a connected socket),
``promote`` (spec, fence, the descriptor that holds the Fisk's lock), ``handover`` (one end of a socket pair),
``drain`` (seconds), ``stop``.  All but the last five may be repeated: the second time changes nothing.
"""

import base64
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import fisk_core
from fisk_core import errors
from fisk_core.dataplane import metrics
from fisk_core.dataplane.descriptors import Descriptors
from fisk_core.dataplane.drain import Drain
from fisk_core.dataplane.lines import Lines, Reply, call, outcome
from fisk_core.dataplane.server import Server
from fisk_core.dataplane.spec import DiskSpec, FenceOptions
from fisk_core.dataplane.start import Start
from fisk_core.errors import FiskError
from fisk_core.units import MAX_SIZE

if TYPE_CHECKING:
    from fisk_core.dataplane.turn import Turn

__all__ = ["PAUSE_SECONDS", "Control", "call"]

PAUSE_SECONDS = 5.0
"""after which a paused worker goes on by itself: whoever paused it may be gone"""


class Control:
    """Answers control requests on the server's loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lines: set[Lines] = set()
        self._pauses = 0
        self._started = time.time()
        self._operations: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "status": self._status,
            "switch": self._switch,
            "resize": self._resize,
            "barrier": self._barrier,
            "metrics": self._metrics,
            "attributes": self._attributes,
            "pause": self._pause,
            "resume": self._resume,
            "turn": self._turn,
            "drain": self._drain,
            "stop": self._stop,
        }
        self._passing: dict[str, Callable[[dict[str, Any], Reply, Descriptors], None]] = {
            "connection": self._connection,
            "promote": self._promote,
            "handover": self._handover,
        }

    def accept(self, sock: socket.socket, received: bytes = b"", fds: Iterable[int] = ()) -> None:
        """Serve one control connection, of which somebody else may have received part of a request."""
        lines = Lines(self._server.loop, sock, self.handle, self._forget)
        lines.buffer = received
        lines.fds.add(fds)
        self.lines.add(lines)

    def _forget(self, lines: Lines) -> None:
        self.lines.discard(lines)
        for listener in self._server.listeners.values():
            listener.room()

    def handle(self, request: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
        """Carry out one request; ``reply`` is called once, now or later."""
        name = str(request.get("op"))
        if passing := self._passing.get(name):
            passing(request, reply, fds)
        elif operation := self._operations.get(name):
            operation(request, reply)
        else:
            raise errors.InvalidValue(f"unknown operation {request.get('op')!r}")

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        server, disk = self._server, self._server.disk
        uris, fence = server.uris, server.options.fence
        kept = server.fence
        reply(
            {
                "ok": True,
                "pid": os.getpid(),
                "host_pid": os.getpid(),
                "version": fisk_core.__version__,
                "started": self._started,
                "fisk_id": disk.spec.fisk_id,
                "map_id": disk.spec.map_id,
                "size": disk.size,
                "read_only": disk.read_only,
                "attributes": dict(server.attributes),
                "epoch": fence.epoch if fence else None,
                "fenced": disk.fenced,
                "yielded": bool(kept and kept.released and kept.yielded),
                "turn": server.turn and server.turn.options.id,
                "wanted": bool(server.turn and server.turn.wanted),
                "failed": disk.failed,
                "refusing": server.refusing,
                "connections": len(server.connections),
                "uri": uris[0] if uris else None,
                "uris": uris,
            }
        )

    def _switch(self, request: dict[str, Any], reply: Reply) -> None:
        spec, paused = DiskSpec(**request["spec"]), bool(request.get("paused"))
        self._server.switch(spec, lambda error: reply(outcome(error)), paused=paused)

    def _resize(self, request: dict[str, Any], reply: Reply) -> None:
        """Take a larger size; ``drop`` lets clients that only look at it when they connect see it."""
        self._server.resize(_size(request["size"]))
        if request.get("drop"):
            self._server.drop_connections()
        reply({"ok": True})

    def _metrics(self, _: dict[str, Any], reply: Reply) -> None:
        metrics.report(self._server, lambda found: reply({"ok": True, "metrics": found}))

    def _attributes(self, request: dict[str, Any], reply: Reply) -> None:
        """Act upon the attributes of the Fisk as they are now: all of them, not only what changed."""
        given = {str(key): str(value) for key, value in dict(request["attributes"]).items()}
        self._server.act_upon(given, lambda error: reply(outcome(error)))

    def _barrier(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer once everything that was reading or flushing when this came is done."""
        if self._server.turn:
            raise errors.InUse("another host writes the Fisk, and reads of it that nobody here can wait for")
        self._server.loop.barrier(lambda: reply({"ok": True}))

    def _pause(self, _: dict[str, Any], reply: Reply) -> None:
        self.pause()
        reply({"ok": True})

    def pause(self) -> None:
        """Answer no client until told to, or until whoever wanted that has had time enough."""
        self._server.pause("control")
        self._pauses += 1
        this = self._pauses
        self._server.loop.later(PAUSE_SECONDS, lambda: self._forgotten(this))

    def _forgotten(self, pause: int) -> None:
        if pause == self._pauses:
            self._server.unpause("control")

    def _resume(self, _: dict[str, Any], reply: Reply) -> None:
        self._pauses += 1
        self._server.unpause("control")
        reply({"ok": True})

    def _connection(self, request: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
        """Serve a socket that somebody else accepted."""
        said = int(request.get("said", 0))
        if said < 0:
            raise errors.InvalidValue("nobody can have heard less than nothing")
        start = Start(
            name=str(request.get("name", self._server.export.name)),
            read_only=bool(request.get("read_only")),
            received=base64.b64decode(request.get("received", ""), validate=True),
            said=said,
        )
        self._server.check_room()
        self._server.add_connection(fds.take_socket(), start)
        reply({"ok": True})

    def _waiting(self) -> "Turn":
        if self._server.turn is None:
            raise errors.NotFound("this worker does not wait for its turn")
        return self._server.turn

    def _turn(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer once a client wants to change something."""
        self._waiting().when_wanted(lambda: reply({"ok": True}))

    def _promote(self, request: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
        """Write the Fisk from now on."""
        self._waiting().come(DiskSpec(**request["spec"]), FenceOptions(**request["fence"]), fds.first)
        fds.take()
        reply({"ok": True})

    def _handover(self, _: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
        """Give everything to the process at the other end of a socket pair, and end."""
        from fisk_core.dataplane.departure import Departure

        server = self._server

        def done(error: FiskError | None) -> None:
            server.departure = None
            reply(outcome(error))
            if error is None:
                server.departed = server.loop.stopping = True

        Departure(server, self, fds, done)

    def _drain(self, request: dict[str, Any], reply: Reply) -> None:
        """Take no client any more, answer when all is durable, and end."""
        if self._server.refusing:
            raise errors.InUse(self._server.refusing)

        def done(error: Exception | None) -> None:
            reply(outcome(error))
            self._server.loop.stopping = True

        Drain(self._server, float(request.get("seconds", 0)), done)

    def _stop(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer and then end: the caller sees by the Fisk's lock when everything is durable."""
        reply({"ok": True})
        self._server.loop.stopping = True


def _size(value: object) -> int:
    """Give the size of a disk that was asked for; raises InvalidValue for what is none."""
    if not isinstance(value, int) or not 0 < value <= MAX_SIZE:
        raise errors.InvalidValue(f"{value!r} is not the size of a disk")
    return value

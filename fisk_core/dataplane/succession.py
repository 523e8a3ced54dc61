# SPDX-License-Identifier: Apache-2.0
"""A worker that goes on where another one stops: the successor's side of a hand-over.

Everything that can fail is done before it says that it is ready, and nothing is written, sent or received
before it is in charge: until then the other one may go on.
"""

import contextlib
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fisk_core import errors
from fisk_core.dataplane import handover
from fisk_core.dataplane.arrivals import Stream
from fisk_core.dataplane.connection import Connection
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.negotiation import Agreement
from fisk_core.dataplane.parcel import NONSENSE, Delivery
from fisk_core.dataplane.server import ServeOptions, Server
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.dataplane.start import Start
from fisk_core.dataplane.transmission import Request

if TYPE_CHECKING:
    from fisk_core.dataplane.control import Control


class Succession:
    """What was handed over, opened and not yet in use."""

    def __init__(self, loop: Loop, delivery: Delivery) -> None:
        """Open it; raises what opening the disk raises."""
        self._delivery, document = delivery, delivery.document
        self._document = document
        try:
            spec, options = DiskSpec(**document["spec"]), ServeOptions.from_fields(document["options"])
            starts = [(fields, unpack(fields["start"], delivery)) for fields in document["connections"]]
            if document["lock"] is not None:
                options = replace(options, lock=delivery.take(document["lock"]))
        except NONSENSE as exc:
            raise errors.Unsupported(f"a hand-over that this version does not understand: {exc!r}") from exc
        self.server = Server(loop, spec, options, untouched=True)
        self._connections = [(fields, start) for fields, start in starts if self._can_compare(start)]

    @classmethod
    def receive(cls, loop: Loop, sock: socket.socket) -> "Succession":
        """Receive what the other end of ``sock`` hands over, and return when this process is in charge.

        Raises Cancelled when it is not to be, and what keeps it from serving.
        """
        with contextlib.ExitStack() as undo, sock:
            delivery = undo.enter_context(handover.accept(sock))
            succession = cls(loop, delivery)
            handover.take_charge(sock)
            succession.server.take_charge()
            undo.pop_all()
            return succession

    def _can_compare(self, start: Start) -> bool:
        """Open the maps the client compares with; one whose Fisk is gone cannot be opened again."""
        contexts = start.agreed.contexts if start.agreed else []
        return all(self.server.export.contexts(name) for _, name in contexts)

    def serve(self, control: "Control") -> None:
        """Take up listeners and connections; clients are looked at on the next round of the loop."""
        with self._delivery as delivery:
            self._take_up(control, delivery)

    def _take_up(self, control: "Control", delivery: Delivery) -> None:
        server = self.server
        server.pause("handover")
        server.metrics.go_on_from(self._document.get("metrics", {}))
        if self._document["paused"]:
            control.pause()
        for kind, number in self._document["listeners"].items():
            accept = control.accept if kind == "control" else None
            server.add_listener(kind, delivery.take_socket(number), accept)
        for fields in self._document["control"]:
            received, fds = delivery.bytes(fields["buffer"]), map(delivery.take, fields["fds"])
            control.accept(delivery.take_socket(fields["fd"]), received, fds)
        for fields, start in self._connections:
            self._restore(delivery.take_socket(fields["fd"]), fields, start)
        server.unpause("handover")

    def _restore(self, sock: socket.socket, fields: dict[str, Any], start: Start) -> None:
        """Go on with one connection."""
        conn = self.server.add_connection(sock, start)
        if conn.closed:
            return
        conn.leaving = fields["leaving"]
        conn.stream = _stream(conn, fields["stream"])
        for place in fields["outbox"]:
            data = memoryview(self._delivery.bytes(place))
            conn.outbox.append(data)
            conn.queued += len(data)
        conn.watch()


def unpack(fields: dict[str, Any], delivery: Delivery) -> Start:
    """Give how a connection goes on."""
    agreed = fields["agreed"] and Agreement(**fields["agreed"])
    if agreed:
        agreed.contexts = [(number, name) for number, name in agreed.contexts]
    return Start(**{**fields, "received": delivery.bytes(fields["received"]), "agreed": agreed})


def _stream(conn: Connection, fields: dict[str, Any] | None) -> Stream | None:
    if fields is None:
        return None
    error = fields["error"] and errors.by_name(fields["error"][0])(fields["error"][1])
    request = Request(conn, *fields["request"])
    request.received = time.monotonic()
    return Stream(request, fields["offset"], fields["left"], error)

# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection: who is at its other end, and the limits before there is a request.

The parser keeps the headers of a request in memory until they are complete, and waits for them for ever;
here both have an end.
"""

import asyncio
import json
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fisk_core.api.identity import Groups, peer
from fisk_core.api.limits import Limits
from fisk_core.errors import FiskError, InvalidValue, LimitExceeded, Overloaded
from fisk_core.problem import document

_PHRASES = {400: b"Bad Request", 413: b"Content Too Large", 429: b"Too Many Requests"}


class Connection(HttpToolsProtocol):
    """A connection; ``limits`` and ``groups`` are the class's, see :func:`protocol`."""

    limits: Limits
    groups: Groups

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = 0
        self._reading = True
        """whether a request is expected or its headers are arriving"""
        self._timer: asyncio.TimerHandle | None = None
        self._peer = None
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            self._peer = peer(sock, self.groups)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(Overloaded(f"{self.limits.max_connections} connections are open already"))
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._reading:
            self._head += len(data)
        super().data_received(data)
        if self._reading and self._head > self.limits.max_head:
            self._refuse(LimitExceeded(f"the headers are larger than {self.limits.max_head} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = True
        if self._timer is None:
            self._wait()
        self.scope["fisk.peer"] = self._peer  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._reading = False
        self._head = 0
        self._end_wait()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidValue(msg))

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.limits.read_seconds, self._give_up)

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: FiskError) -> None:
        """Answer what came before there was a request to answer, and end."""
        status = error.http_status
        body = json.dumps({**document(error), "instance": ""}).encode()
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n" % (status, _PHRASES[status])
        rest = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        self.transport.write(head + rest + body)
        self.transport.close()


def protocol(limits: Limits, groups: Groups) -> type[Connection]:
    """Give the class of connections with these limits."""
    attributes: dict[str, Any] = {"limits": limits, "groups": groups}
    return type("Connection", (Connection,), attributes)

# SPDX-License-Identifier: Apache-2.0
"""The control socket of a worker: one JSON object a line, one reply for each.

``{"op": …}`` is answered with ``{"ok": true, …}`` or ``{"ok": false, "error": class, "message": …}``.
Operations: ``status``, ``switch`` (spec), ``resize`` (size), ``barrier``, ``pause``, ``resume``, ``stop``.
All of them may be repeated: the second time changes nothing.
"""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from fisk_core import errors
from fisk_core.dataplane import unixsocket
from fisk_core.dataplane.loop import IN
from fisk_core.dataplane.server import Server
from fisk_core.dataplane.spec import DiskSpec

PAUSE_SECONDS = 5.0
"""after which a paused worker goes on by itself: whoever paused it may be gone"""
MAX_LINE = 1 << 20

Reply = Callable[[dict[str, Any]], None]


class Control:
    """Answers control requests on the server's loop."""

    def __init__(self, server: Server, uris: list[str]) -> None:
        self._server, self._uris = server, uris
        self._pauses = 0
        self._operations: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "status": self._status,
            "switch": self._switch,
            "resize": self._resize,
            "barrier": self._barrier,
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
        }

    def accept(self, sock: socket.socket) -> None:
        """Serve one control connection."""
        _Lines(self._server, sock, self.handle)

    def handle(self, request: dict[str, Any], reply: Reply) -> None:
        """Carry out one request; ``reply`` is called once, now or later."""
        operation = self._operations.get(str(request.get("op")))
        try:
            if operation is None:
                raise errors.InvalidValue(f"unknown operation {request.get('op')!r}")
            operation(request, reply)
        except errors.FiskError as exc:
            reply(_failure(exc))
        except (KeyError, TypeError, ValueError) as exc:
            reply(_failure(errors.InvalidValue(f"malformed request: {exc!r}")))

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        disk = self._server.disk
        reply(
            {
                "ok": True,
                "pid": os.getpid(),
                "fisk_id": disk.spec.fisk_id,
                "map_id": disk.spec.map_id,
                "size": disk.size,
                "read_only": disk.read_only,
                "failed": disk.failed,
                "connections": len(self._server.connections),
                "uri": self._uris[0] if self._uris else None,
                "uris": self._uris,
            }
        )

    def _switch(self, request: dict[str, Any], reply: Reply) -> None:
        spec = DiskSpec(**request["spec"])
        self._server.switch(spec, lambda error: reply(_outcome(error)))

    def _resize(self, request: dict[str, Any], reply: Reply) -> None:
        self._server.resize(int(request["size"]))
        reply({"ok": True})

    def _barrier(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer once everything that was reading or flushing when this came is done."""
        self._server.loop.barrier(lambda: reply({"ok": True}))

    def _pause(self, _: dict[str, Any], reply: Reply) -> None:
        self._server.pause("control")
        self._pauses += 1
        this = self._pauses
        self._server.loop.later(PAUSE_SECONDS, lambda: self._forgotten(this))
        reply({"ok": True})

    def _forgotten(self, pause: int) -> None:
        if pause == self._pauses:
            self._server.unpause("control")

    def _resume(self, _: dict[str, Any], reply: Reply) -> None:
        self._pauses += 1
        self._server.unpause("control")
        reply({"ok": True})

    def _stop(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer and then end: the caller sees by the Fisk's lock when everything is durable."""
        reply({"ok": True})
        self._server.loop.stopping = True


def _outcome(error: Exception | None) -> dict[str, Any]:
    return {"ok": True} if error is None else _failure(error)


def _failure(error: Exception) -> dict[str, Any]:
    return {"ok": False, "error": type(error).__name__, "message": str(error)}


class _Lines:
    """One control connection: lines in, lines out, never waiting."""

    def __init__(
        self, server: Server, sock: socket.socket, handle: Callable[[dict[str, Any], Reply], None]
    ) -> None:
        sock.setblocking(False)
        self._server, self._sock, self._handle = server, sock, handle
        self._buffer = b""
        self._open = True
        server.loop.add(sock.fileno(), IN, self._on_event)

    def _on_event(self, _: int) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        if not data or len(self._buffer) > MAX_LINE:
            self._close()
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._one(line)

    def _one(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("not an object")
        except ValueError as exc:
            self._reply(_failure(errors.InvalidValue(f"malformed request: {exc}")))
        else:
            self._handle(request, self._reply)

    def _reply(self, message: dict[str, Any]) -> None:
        if not self._open:
            return
        try:
            # A reply is far smaller than the socket's buffer; a peer that lets it fill up has lost interest.
            self._sock.send(json.dumps(message).encode() + b"\n")
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._server.loop.remove(self._sock.fileno())
            self._sock.close()


def call(path: "str | os.PathLike[str]", request: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
    """Send one request to the worker listening at ``path`` and give its reply.

    Raises NotFound when nobody listens there, PoolError when it goes away without a reply, and what the
    worker reports.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            unixsocket.connect(sock, path)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise errors.NotFound(f"no worker listens at {path}") from exc
        except OSError as exc:
            raise errors.from_oserror(exc, f"connect to the worker at {path}") from exc
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline(MAX_LINE)
        except OSError as exc:
            raise errors.PoolError(f"the worker at {path} did not answer: {exc}") from exc
    if not line.endswith(b"\n"):
        raise errors.PoolError(f"the worker at {path} went away")
    reply: dict[str, Any] = json.loads(line)
    if not reply.pop("ok"):
        raise errors.by_name(reply["error"])(reply["message"])
    return reply

# SPDX-License-Identifier: Apache-2.0
"""Control sockets: one JSON object a line, one reply for each, descriptors beside them.

``{"op": …}`` is answered with ``{"ok": true, …}`` or ``{"ok": false, "error": class, "message": …}``.
Descriptors belong to the request with which they were sent; what it does not take is closed.
"""

import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from fisk_core import errors
from fisk_core.dataplane import unixsocket
from fisk_core.dataplane.descriptors import Descriptors, receive, send
from fisk_core.dataplane.loop import IN, Loop

MAX_LINE = 1 << 20
_MAX_WAITING = 8
"""descriptors that may come with one request"""

Reply = Callable[[dict[str, Any]], None]
Handle = Callable[[dict[str, Any], Reply, Descriptors], None]


class Lines:
    """One control connection, never waiting."""

    def __init__(
        self, loop: Loop, sock: socket.socket, handle: Handle, forget: "Callable[[Lines], None]"
    ) -> None:
        sock.setblocking(False)
        self._loop, self.sock, self._handle, self._forget = loop, sock, handle, forget
        self.buffer = b""
        """what was received of a request that is not whole"""
        self.fds = Descriptors()
        """what came with it"""
        self.asked = 0
        """requests not answered yet"""
        self._open = self._listening = True
        loop.add(sock.fileno(), IN, self._on_event)

    def hold(self) -> None:
        """Look at no further request."""
        if self._open and self._listening:
            self._loop.remove(self.sock.fileno())
            self._listening = False

    def go_on(self) -> None:
        """Look at requests again."""
        if self._open and not self._listening:
            self._loop.add(self.sock.fileno(), IN, self._on_event)
            self._listening = True

    def _on_event(self, _: int) -> None:
        try:
            data, fds = receive(self.sock, 65536, _MAX_WAITING)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", Descriptors()
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        # What is received in one call ends with the message that carried descriptors; those that came
        # before belong to the line that was not whole then.
        for number, line in enumerate(lines, 1):
            with self.fds as own:
                if number == len(lines) and not self.buffer:
                    own.add(fds.take_all())
                self._one(line, own)
        self.fds.add(fds.take_all())
        if not data or len(self.buffer) > MAX_LINE or len(self.fds) > _MAX_WAITING or not self._open:
            self.close()

    def _one(self, line: bytes, fds: Descriptors) -> None:
        if not self._open:
            return
        self.asked += 1
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as exc:
            self._reply(failure(errors.InvalidValue(f"malformed request: {exc}")))
        else:
            answer(self._handle, request, self._reply, fds)

    def _reply(self, message: dict[str, Any]) -> None:
        self.asked -= 1
        if not self._open:
            return
        try:
            # A reply is far smaller than the socket's buffer; a peer that lets it fill up has lost interest.
            line = json.dumps(message).encode() + b"\n"
            if self.sock.send(line) < len(line):
                self.close()  # else it would wait for the rest
        except OSError:
            self.close()

    def close(self) -> None:
        if not self._open:
            return
        self.hold()
        self._open = False
        self.sock.close()
        self.fds.close()
        self._forget(self)


def answer(handle: Handle, request: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
    """Have a request carried out, and its refusal told."""
    try:
        handle(request, reply, fds)
    except errors.FiskError as exc:
        reply(failure(exc))
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        reply(failure(errors.InvalidValue(f"malformed request: {exc!r}")))


def outcome(error: Exception | None) -> dict[str, Any]:
    return {"ok": True} if error is None else failure(error)


def failure(error: Exception) -> dict[str, Any]:
    return {"ok": False, "error": type(error).__name__, "message": str(error)}


def call(
    path: "str | os.PathLike[str]",
    request: dict[str, Any],
    timeout: float = 60.0,
    give: Sequence[int] = (),
) -> dict[str, Any]:
    """Send one request to the process listening at ``path`` and give its reply.

    ``give`` are descriptors that go with it; they are closed here in any case.  Raises NotFound when nobody
    listens there, PoolError when it goes away without a reply, and what it reports.
    """
    with ask(path, request, timeout, give) as sock:
        return hear(sock, path)


def ask(
    path: "str | os.PathLike[str]",
    request: dict[str, Any],
    timeout: float = 60.0,
    give: Sequence[int] = (),
) -> socket.socket:
    """Send one request; gives the socket by which the reply comes.  Raises like :func:`call`."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        with Descriptors(give):
            sock.settimeout(timeout)
            _connect(sock, path)
            line = json.dumps(request).encode() + b"\n"
            rest = line[send(sock, line, give) :]
            if rest:  # sending nothing fails, too, when the peer has answered
                sock.sendall(rest)
    except errors.FiskError:
        sock.close()
        raise
    except (BrokenPipeError, ConnectionResetError) as exc:
        sock.close()
        raise errors.NotFound(f"the worker at {path} ended before it took a request") from exc
    except OSError as exc:
        sock.close()
        raise errors.PoolError(f"the worker at {path} took no request: {exc}") from exc
    return sock


def _connect(sock: socket.socket, path: "str | os.PathLike[str]") -> None:
    try:
        unixsocket.connect(sock, path)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise errors.NotFound(f"no worker listens at {path}") from exc
    except OSError as exc:
        raise errors.from_oserror(exc, f"connect to the worker at {path}") from exc


def hear(sock: socket.socket, path: "str | os.PathLike[str]") -> dict[str, Any]:
    """Give the reply; raises like :func:`call`."""
    try:
        with sock.makefile("rb") as lines:
            line = lines.readline(MAX_LINE)
    except OSError as exc:
        raise errors.PoolError(f"the worker at {path} did not answer: {exc}") from exc
    return read_reply(line, path)


def read_reply(line: bytes, path: "str | os.PathLike[str]") -> dict[str, Any]:
    """Give what a reply says; raises what it reports, PoolError for one that is cut short."""
    if not line.endswith(b"\n"):
        raise errors.PoolError(f"the worker at {path} went away")
    reply: dict[str, Any] = json.loads(line)
    if not reply.pop("ok"):
        raise errors.by_name(reply["error"])(reply["message"])
    return reply

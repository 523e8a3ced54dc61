# SPDX-License-Identifier: Apache-2.0
"""Giving a connected client to a worker, without waiting for it.

A worker that was killed is back within moments, so nobody listening is a reason to try again for a while.
Once the worker has the socket it alone talks to the client: what goes wrong from then on ends the client.
"""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from fisk_core import errors
from fisk_core.dataplane import lines, unixsocket
from fisk_core.dataplane.descriptors import send
from fisk_core.dataplane.loop import IN, OUT, Loop

PATIENCE = 5.0
"""seconds to wait for a worker"""
_AGAIN = 0.05

Done = Callable[[Exception | None], None]


class Passing:
    """One descriptor on its way to the worker whose control socket is at ``path``."""

    def __init__(self, loop: Loop, path: str, request: dict[str, Any], fd: int, done: Done) -> None:
        """Take over ``fd``; ``done(error)`` is called once, when the worker has it or cannot be given it."""
        self._loop, self._path, self._fd, self._done = loop, path, fd, done
        self._rest = json.dumps(request).encode() + b"\n"
        self._reply = b""
        self._sock: socket.socket | None = None
        self._over = False
        loop.later(PATIENCE, lambda: self._end(errors.PoolError(f"the worker at {path} does not answer")))
        self._connect()

    def _connect(self) -> None:
        if self._over:
            return
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            unixsocket.connect(sock, self._path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            sock.close()
            self._loop.later(_AGAIN, self._connect)
            return
        except OSError as exc:
            sock.close()
            self._end(errors.from_oserror(exc, f"connect to the worker at {self._path}"))
            return
        self._sock = sock
        self._loop.add(sock.fileno(), OUT, self._on_event)

    def _on_event(self, _: int) -> None:
        assert self._sock is not None
        try:
            if self._rest:
                self._send(self._sock)
            else:
                self._receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError) as exc:
            self._end(errors.PoolError(f"the worker at {self._path} went away: {exc}"))
        except errors.FiskError as exc:
            self._end(exc)

    def _send(self, sock: socket.socket) -> None:
        """Send the request, with the descriptor beside its first byte."""
        self._rest = self._rest[send(sock, self._rest, [self._fd] if self._fd >= 0 else []) :]
        self._close_fd()
        if not self._rest:
            self._loop.change(sock.fileno(), IN)

    def _receive(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        self._reply += data
        if data and not self._reply.endswith(b"\n"):
            return
        lines.read_reply(self._reply, self._path)
        self._end(None)

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._close_fd()
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
        self._done(error)

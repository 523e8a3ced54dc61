# SPDX-License-Identifier: Apache-2.0
"""The HTTP servers: one for each listener, in one event loop, with one application."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from fisk_core.api.gate import Gate
from fisk_core.daemon.connection import Connection
from fisk_core.daemon.listeners import BACKLOG, Address

KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    """A server that leaves signals to the daemon and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


class Servers:
    """Serves an application on several listeners until told to stop."""

    def __init__(
        self,
        app: Gate,
        listeners: Sequence[tuple[socket.socket, Address | None]],
        protocol: type[Connection],
        stop_seconds: int,
    ) -> None:
        self._listeners = [sock for sock, _ in listeners]
        self._servers = [_Server(_config(app, where, protocol, stop_seconds)) for _, where in listeners]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when every listener is served."""
        pairs = zip(self._servers, self._listeners, strict=True)
        self._tasks = [asyncio.create_task(server.serve([sock])) for server, sock in pairs]
        await asyncio.gather(*(server.serving.wait() for server in self._servers))

    async def stop(self) -> None:
        """Accept nothing more, finish what is under way, at most for the time given."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks)


def _config(
    app: Gate, where: Address | None, protocol: type[Connection], stop_seconds: int
) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if where is not None and where.tls:
        tls = {"ssl_certfile": where.tls_cert, "ssl_keyfile": where.tls_key}
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=stop_seconds,
        **tls,
    )

# SPDX-License-Identifier: Apache-2.0
"""The HTTP servers: one for each listener, in one event loop, with one application."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from fisk_core.api.gate import Gate
from fisk_core.daemon.connection import Connection
from fisk_core.daemon.listeners import BACKLOG, Address, tls_context
from fisk_core.dataplane.renewal import LOOK_SECONDS, Renewal
from fisk_core.errors import FiskError

LOG = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75


class _Certificate:
    """What a listener proves itself with, taken anew when its files were replaced.

    The listener keeps the context it began with, for asyncio cannot exchange it; each connection is given the
    present one when the client says hello, so connections that there are go on with theirs.
    """

    def __init__(self, where: Address) -> None:
        assert where.tls_cert is not None
        self._where = where
        self._renewal = Renewal([where.tls_cert, where.tls_key or where.tls_cert])
        self._now = tls_context(where)

    def protect(self, context: ssl.SSLContext) -> None:
        """Have the connections of a listener's context get ours; also of clients that name no server."""
        context.sni_callback = self._give

    def _give(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._now

    def look(self, *, at_once: bool = False) -> None:
        """Take up new files; those that cannot be used are told of once, and change nothing."""
        if not self._renewal.changed(at_once=at_once):
            return
        try:
            self._now = tls_context(self._where)
        except FiskError as exc:
            LOG.error("HTTPS goes on with the certificate it had: %s", exc)
        else:
            LOG.info("HTTPS uses %s as it is now", self._where.tls_cert)


class _Server(uvicorn.Server):
    """A server that leaves signals to the daemon and says when it serves."""

    def __init__(self, config: uvicorn.Config, certificate: _Certificate | None) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()
        self._certificate = certificate

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is not None and self.config.ssl is not None:
            self._certificate.protect(self.config.ssl)
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
        self._certificates: list[_Certificate] = []
        self._servers = []
        for _, where in listeners:
            certificate = _Certificate(where) if where is not None and where.tls else None
            self._certificates += [certificate] if certificate else []
            self._servers.append(_Server(_config(app, where, protocol, stop_seconds), certificate))
        self._tasks: list[asyncio.Task[None]] = []
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when every listener is served."""
        pairs = zip(self._servers, self._listeners, strict=True)
        self._tasks = [asyncio.create_task(server.serve([sock])) for server, sock in pairs]
        await asyncio.gather(*(server.serving.wait() for server in self._servers))
        if self._certificates:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.renew()

    def renew(self, *, at_once: bool = False) -> None:
        """Take up certificates that were replaced; otherwise that happens by itself within a second."""
        for each in self._certificates:
            each.look(at_once=at_once)

    async def stop(self) -> None:
        """Accept nothing more, finish what is under way, at most for the time given."""
        if self._looking is not None:
            self._looking.cancel()
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

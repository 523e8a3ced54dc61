# SPDX-License-Identifier: Apache-2.0
"""An orderly end: what was asked is answered and durable before the clients are left."""

import time
from typing import TYPE_CHECKING

from fisk_core.dataplane.flusher import Callback

if TYPE_CHECKING:
    from fisk_core.dataplane.connection import Connection
    from fisk_core.dataplane.server import Server

_LOOK_SECONDS = 0.005


class Drain:
    """The draining of one server."""

    def __init__(self, server: "Server", seconds: float, done: Callback) -> None:
        """Begin; ``done(error)`` is called when everything is durable, or cannot be.

        Clients that ask without end, or take no answers, are waited for ``seconds``; requests that wait for
        the disk are, however long that takes.
        """
        self._server, self._done = server, done
        self._until = time.monotonic() + seconds
        server.stop_listening("the worker is being drained")
        for conn in list(server.connections):
            if conn.agreed is None:
                conn.close()
        server.loop.later(_LOOK_SECONDS, self._wait)

    def _wait(self) -> None:
        # Bytes the kernel has for us were asked before now: a round of the loop receives them.
        if any(map(_busy, self._server.connections)) and time.monotonic() < self._until:
            self._server.loop.later(_LOOK_SECONDS, self._wait)
            return
        self._server.pause("drain")
        self._settle()

    def _settle(self) -> None:
        if not self._server.quiet:
            self._server.loop.later(_LOOK_SECONDS, self._settle)
            return
        self._server.flusher.flush(self._done)


def _busy(conn: "Connection") -> bool:
    """Say whether something of ``conn`` is under way."""
    return bool(conn.pending or conn.outbox or conn.have or conn.stream)

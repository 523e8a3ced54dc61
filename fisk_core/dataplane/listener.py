# SPDX-License-Identifier: Apache-2.0
"""A listening socket on the loop, that rests while no connection can be taken.

A socket with connections waiting stays readable.  Where this process has no descriptor left for them, the
loop would come back to it without end; so it is left alone until one is closed, or for a moment.
"""

import errno
import logging
import socket
from collections.abc import Callable

from fisk_core import errors
from fisk_core.dataplane.loop import IN, Loop

LOG = logging.getLogger(__name__)
REST_SECONDS = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """One listening socket; ``accept`` is called with each connected one."""

    def __init__(self, loop: Loop, sock: socket.socket, accept: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self._loop, self.sock, self._accept = loop, sock, accept
        self._watched = False
        self._resting = False
        self._held = False
        self._told = False
        self._watch()

    def _watch(self) -> None:
        wanted = not self._held and not self._resting and self.sock.fileno() >= 0
        if wanted and not self._watched:
            self._loop.add(self.sock.fileno(), IN, self._on_event)
        elif self._watched and not wanted:
            self._loop.remove(self.sock.fileno())
        self._watched = wanted

    def _on_event(self, _: int) -> None:
        try:
            sock = self.sock.accept()[0]
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                self._rest(exc)
            else:
                LOG.info("a connection could not be taken: %s", exc)  # its client is gone already
            return
        self._told = False
        self._accept(sock)

    def _rest(self, why: OSError) -> None:
        if not self._told:
            LOG.warning("no connection is taken for now: %s", why)
        self._resting = self._told = True
        self._watch()
        self._loop.later(REST_SECONDS, self.room)

    def room(self) -> None:
        """Try again: something was closed."""
        if self._resting:
            self._resting = False
            self._watch()

    def hold(self) -> None:
        """Take no connection; they wait in the kernel until :meth:`go_on`."""
        self._held = True
        self._watch()

    def go_on(self) -> None:
        self._held = False
        self._watch()

    def close(self) -> None:
        """Stop listening; those not taken are refused."""
        self.hold()
        self.sock.close()


def listen_tcp(host: str, port: int) -> socket.socket:
    """Listen at an address; raises InUse, or InvalidValue for one that is not of this host."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        kind = errors.InUse if exc.errno == errno.EADDRINUSE else errors.InvalidValue
        raise kind(f"cannot listen at {host}:{port}: {exc.strerror or exc}") from exc

# SPDX-License-Identifier: Apache-2.0
"""How a process gives what it serves to its successor, in two phases over a SOCK_SEQPACKET pair.

::

    old process                               successor
    stops, makes everything durable
    parcel ──────────────────────────────▶    opens everything, serves nothing
              ◀────────────────────────────── ready
    go ──────────────────────────────────▶    serves
    ends, and touches nothing

What a crash or a stop leaves:

- the successor ends, or is not ready in time: the old process says ``back`` and goes on; a successor that
  comes to life later finds that word before anything else, and ends;
- the old process ends before all of the parcel was sent: the successor ends too, both are gone;
- the old process ends later, without a word: the successor has everything, and nobody else does: it serves.

The pair tells the end of a process by itself (end of file), so no phase depends on clocks but the old
one's patience.
"""

import contextlib
import socket
from collections.abc import Callable

from fisk_core import errors
from fisk_core.dataplane.loop import IN, Loop
from fisk_core.dataplane.parcel import Delivery

PATIENCE = 5.0
"""seconds that clients may be kept waiting for a successor"""
_READY, _GO, _BACK = b"ready", b"go", b"back"

Done = Callable[[errors.FiskError | None], None]


class Offer:
    """The old process's side, on its loop; ``done`` is told None once the successor is in charge."""

    def __init__(self, loop: Loop, sock: socket.socket, done: Done) -> None:
        sock.setblocking(False)
        self._loop, self.sock, self._done = loop, sock, done
        self._over = False
        loop.add(sock.fileno(), IN, self._on_event)

    def hurry(self) -> None:
        """Wait for the successor no longer than clients are to wait."""
        late = errors.PoolError("the successor was not ready in time")
        self._loop.later(PATIENCE, lambda: self.withdraw(late))

    def _on_event(self, _: int) -> None:
        try:
            said = self.sock.recv(64)
            if said == _READY:
                self.sock.send(_GO)
        except BlockingIOError:
            return
        except OSError as exc:
            self.withdraw(errors.from_oserror(exc, "hand over"))
            return
        if said == _READY:
            self._end(None)
        else:
            self.withdraw(errors.PoolError("the successor ended before it was ready"))

    def withdraw(self, why: errors.FiskError) -> None:
        """Take everything back; does nothing once the successor is in charge."""
        if self._over:
            return
        with contextlib.suppress(OSError):  # it is gone
            self.sock.send(_BACK)
        self._end(why)

    def _end(self, error: errors.FiskError | None) -> None:
        self._over = True
        self._loop.remove(self.sock.fileno())
        self.sock.close()
        self._done(error)


def accept(sock: socket.socket) -> Delivery:
    """Receive what is handed over; raises Cancelled when the old process withdrew or ended."""
    try:
        return Delivery(sock)
    except (EOFError, OSError):
        raise errors.Cancelled("the process to succeed went away") from None


def take_charge(sock: socket.socket) -> None:
    """Say that everything is ready, and return when this process is to serve; raises Cancelled."""
    try:
        sock.send(_READY)
        said = sock.recv(64)
    except OSError:  # the old process ended: what it said before is still to be received
        said = _last_word(sock)
    if said == _BACK:
        raise errors.Cancelled("the process to succeed took everything back")


def _last_word(sock: socket.socket) -> bytes:
    try:
        return sock.recv(64)
    except OSError:
        return b""

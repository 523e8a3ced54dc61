# SPDX-License-Identifier: Apache-2.0
"""Moving bytes between a TLS connection and a worker, on a thread for each client.

The library encrypts without the interpreter's lock, so clients are served on several cores.  Each direction
has one buffer, filled only when it is empty: a side that takes nothing makes the other one wait.
"""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable

from fisk_core.dataplane.tls import TlsSocket

LOG = logging.getLogger(__name__)
BUFFER = 256 << 10
_SO_SNDBUFFORCE = 32
_SOCKET_BUFFER = 4 << 20

Port = socket.socket | TlsSocket


class _Pipe:
    """One direction."""

    def __init__(self, source: Port, sink: Port) -> None:
        self._source, self._sink = source, sink
        self._view = memoryview(bytearray(BUFFER))
        self._start = self._end = 0
        self.ended = False
        """the source said everything"""

    @property
    def full(self) -> bool:
        """The sink has to take something before more is received."""
        return self._start < self._end

    def move(self) -> bool:
        """Move what can be moved at once; False when that is nothing."""
        if not self.full and not self.ended:
            self._fill()
        before = self._start
        try:
            while self.full:
                self._start += self._sink.send(self._view[self._start : self._end])
        except BlockingIOError:
            pass
        return self._start > before

    def _fill(self) -> None:
        self._start = self._end = 0
        try:
            while self._end < BUFFER:
                count = self._source.recv_into(self._view[self._end :])
                if not count:
                    self.ended = True
                    return
                self._end += count
        except BlockingIOError:
            pass


class Relay(threading.Thread):
    """Serves one client until either side ends; takes over both sockets."""

    def __init__(self, tls: TlsSocket, plain: socket.socket, ended: "Callable[[Relay], None]") -> None:
        """Have ``ended`` called on this thread in the end."""
        super().__init__(name="relay", daemon=True)
        plain.setblocking(False)
        with contextlib.suppress(OSError):  # only root may; the usual size works too
            plain.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_BUFFER)
        self._tls, self._plain, self._ended = tls, plain, ended
        self._up, self._down = _Pipe(tls, plain), _Pipe(plain, tls)

    def run(self) -> None:
        try:
            self._relay()
        except OSError as exc:
            LOG.debug("relay ended: %s", exc)
        finally:
            self._tls.close()
            self._plain.close()
            self._ended(self)

    def _relay(self) -> None:
        up, down = self._up, self._down
        said_so = False
        while True:
            moved = up.move()
            if down.move() or moved:
                continue
            if down.ended and not down.full:
                return
            if up.ended and not up.full and not said_so:
                said_so = True
                self._plain.shutdown(socket.SHUT_WR)  # the worker ends its side then
            self._wait()

    def _wait(self) -> None:
        """Wait until something can be moved.  A side that nothing is wanted of is not looked at."""
        poll = select.poll()
        for port, reads, writes in ((self._tls, self._up, self._down), (self._plain, self._down, self._up)):
            events = 0 if reads.full or reads.ended else select.POLLIN
            events |= select.POLLOUT if writes.full else 0
            if events:
                poll.register(port.fileno(), events)
        poll.poll()

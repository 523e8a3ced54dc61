# SPDX-License-Identifier: Apache-2.0
"""A client from the network until it says which export it wants, and the right worker has it.

Everything up to there is answered by the same negotiation as in a worker, so both say the same.  The worker
begins with the client's flags, whether structured replies were agreed on, and the option that names the
export; what else was asked and refused before does not matter any more.

What a client can make the acceptor hold or do is bounded: one option of the longest kind that is looked at,
no further one before it took the answer, so many options, and so much time for all of it.
"""

import logging
import os
import socket
import weakref
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane import routes
from fisk_core.dataplane.loop import IN, OUT
from fisk_core.dataplane.negotiation import MAX_OPTION, ExportInfo, Negotiation
from fisk_core.dataplane.passing import Passing
from fisk_core.errors import LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fisk_core.dataplane.acceptor import Acceptor
    from fisk_core.dataplane.tls import TlsSocket

LOG = logging.getLogger(__name__)
MAX_OPTIONS = 64
HANDSHAKE_SECONDS = 10
_MAX_INBOX = MAX_OPTION + nbd.OPTION.size


class Found(Exception):
    """The client named an export that there is."""

    def __init__(self, route: routes.Route, name: bytes) -> None:
        super().__init__(route)
        self.route, self.name = route, name


class _Nothing(ExportInfo):
    """What can be said before an export is named."""

    name = description = ""
    size = block_size = 0
    listed = False


class Inquiry(Negotiation):
    """A negotiation that ends with :class:`Found`."""

    def __init__(
        self, exports: Path, say: "Callable[[bytes], object]", tls: "Callable[[], None] | None"
    ) -> None:
        super().__init__(_Nothing(), say, tls)
        self._exports = exports
        self._options = 0
        self.option = b""
        """the option being answered"""

    def _answer(self, option: int, data: bytes | None) -> bool:
        self._options += 1
        if self._options > MAX_OPTIONS:
            raise ProtocolError("a client that never comes to the point")
        self.option = nbd.OPTION.pack(nbd.OPTION_MAGIC, option, len(data or b"")) + (data or b"")
        return super()._answer(option, data)

    def _knows(self, name: bytes) -> bool:
        route = routes.find(self._exports, name)
        if route:
            raise Found(route, name)
        return False

    def said_and_heard(self) -> tuple[int, bytes]:
        """Give how much a worker need not say, and what it is to hear, up to the option of now."""
        flags = nbd.FLAG_FIXED_NEWSTYLE | (nbd.FLAG_NO_ZEROES if self.agreed.no_zeroes else 0)
        said, heard = nbd.HELLO.size, nbd.CLIENT_FLAGS.pack(flags)
        if self.agreed.structured:
            said += nbd.OPTION_REPLY.size
            heard += nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_STRUCTURED_REPLY, 0)
        return said, heard + self.option


class Reception:
    """One client."""

    def __init__(self, acceptor: "Acceptor", sock: socket.socket) -> None:
        sock.setblocking(False)
        self._acceptor, self._loop = acceptor, acceptor.loop
        self._sock: socket.socket | TlsSocket = sock
        self._fd = sock.fileno()
        self._inbox, self._out = bytearray(), bytearray()
        self._watched = True
        self.closed = False
        self._inquiry = Inquiry(acceptor.exports, self._say, self._start_tls if acceptor.tls else None)
        self._steps = self._inquiry.run()
        self._wanted, self._events = 0, IN
        self._loop.add(self._fd, IN, self._on_event)
        this = weakref.ref(self)  # a timer must not keep a client that went its way
        self._loop.later(HANDSHAKE_SECONDS, lambda: _give_up(this()))

    def begin(self) -> None:
        """Say hello."""
        self._guarded(self._hello)

    def _hello(self) -> None:
        self._wanted = next(self._steps)

    def _on_event(self, events: int) -> None:
        self._guarded(self._go_on)

    def _guarded(self, call: "Callable[[], None]") -> None:
        """Do something with the client; whatever it breaks ends only itself."""
        try:
            call()
        except BlockingIOError:
            pass
        except Found as found:
            self._pass_on(found)
        except (ProtocolError, OSError) as exc:
            LOG.debug("client refused: %s", exc)
            self.close()

    def _go_on(self) -> None:
        while not self.closed:
            self._push()
            while not self._out and len(self._inbox) >= self._wanted:
                data = bytes(self._inbox[: self._wanted])
                del self._inbox[: self._wanted]
                self._wanted = self._steps.send(data)
            if self._out:
                return
            self._receive()

    def _receive(self) -> None:
        """Receive something; raises BlockingIOError when there is nothing."""
        view = self._acceptor.buffer[: _MAX_INBOX - len(self._inbox)]
        count = self._sock.recv_into(view)
        if not count:
            self.close()
        self._inbox += view[:count]

    def _say(self, data: bytes) -> None:
        self._out += data
        self._push()

    def _push(self) -> None:
        """Send what the client takes; until it took all of it, nothing is received."""
        try:
            while self._out:
                del self._out[: self._sock.send(bytes(self._out))]
        except BlockingIOError:
            pass
        events = OUT if self._out else IN
        if events != self._events:
            self._events = events
            self._loop.change(self._fd, events)

    def _start_tls(self) -> None:
        if self._inbox or self._out:
            raise ProtocolError("data behind STARTTLS")
        from fisk_core.dataplane.tls import TlsSocket

        assert self._acceptor.tls is not None
        assert isinstance(self._sock, socket.socket)
        # A client that is gone makes the library close the descriptor: the loop must not know it then.
        self._loop.remove(self._fd)
        self._watched = False
        self._sock = TlsSocket(self._sock, self._acceptor.tls)
        self._loop.add(self._fd, self._events, self._on_event)
        self._watched = True

    # Passing on

    def _pass_on(self, found: Found) -> None:
        """Give the client to the worker, with what it said."""
        self._loop.remove(self._fd)
        self._watched = False
        said, heard = self._inquiry.said_and_heard()
        request: dict[str, Any] = {
            "op": "connection",
            "name": found.name.decode(errors="replace"),
            "read_only": found.route.read_only,
            "received": b64encode(heard + bytes(self._inbox)).decode(),
            "said": said,
        }
        try:
            self._hand(found.route.control, request)
        except OSError as exc:
            LOG.warning("a client cannot be passed on: %s", exc)
            self.close()

    def _hand(self, control: str, request: dict[str, Any]) -> None:
        tls = self._sock
        if isinstance(tls, socket.socket):
            Passing(self._loop, control, request, os.dup(self._fd), self._passed)
            return
        if not self._acceptor.room_for_relay:
            self._passed(LimitExceeded("there are as many clients under TLS as can be served"))
            return
        ours, theirs = socket.socketpair()

        def relayed(error: Exception | None) -> None:
            if error is None and not self.closed:
                self._acceptor.relay(tls, ours)
                self._forget()
            else:
                ours.close()
                self._passed(error)

        Passing(self._loop, control, request, theirs.detach(), relayed)

    def _passed(self, error: Exception | None) -> None:
        """The worker has the client, or there is none that takes it; here it ends in both cases."""
        if error is not None:
            LOG.warning("a client could not be passed on: %s", error)
        self._acceptor.passed += error is None
        self.close()

    def _forget(self) -> None:
        self.closed = True
        self._steps.close()  # it refers to this client, and nothing here collects cycles
        del self._inquiry
        self._acceptor.forget(self)

    def close(self) -> None:
        if self.closed:
            return
        if self._watched:
            self._loop.remove(self._fd)
        self._sock.close()
        self._forget()


def _give_up(client: Reception | None) -> None:
    if client is not None:
        client.close()

# SPDX-License-Identifier: Apache-2.0
"""One client's connection: its buffers, its back-pressure, its negotiation.

Memory is bounded: the inbox grows to one largest request and shrinks again; replies the client does not
take are kept up to HIGH_WATER, past which no further request of this connection is looked at.
"""

import errno
import os
import socket
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core.dataplane.loop import HUP, IN, OUT
from fisk_core.dataplane.negotiation import Agreement, Negotiation, Presented, ReadOnly
from fisk_core.dataplane.protocol import HELLO
from fisk_core.dataplane.start import Start
from fisk_core.errors import ProtocolError

if TYPE_CHECKING:
    from fisk_core.dataplane.arrivals import Stream
    from fisk_core.dataplane.server import Server
    from fisk_core.dataplane.throttle import Share
    from fisk_core.dataplane.tls import TlsSocket

INBOX = 256 << 10
HIGH_WATER = 1 << 20
"""bytes of replies waiting for the client from which on its requests wait too"""
MAX_PENDING = 256
"""requests of one connection that may wait for the disk"""
MAX_HELD = 64 << 20
"""bytes of buffers that requests of one connection waiting for the disk may hold"""
MAX_KEPT = 256 << 20
"""bytes that all connections together hold, or have waiting for their clients, before each is kept to one
request: what a few may do, hundreds may not"""
HANDSHAKE_SECONDS = 30


@dataclass(slots=True)
class FileSpan:
    """Part of a reply to be sent straight from a layer's page cache."""

    fd: int
    offset: int
    length: int


class Connection:
    """A connected socket, driven by the loop; ``closed`` once it is gone."""

    def __init__(self, server: "Server", sock: socket.socket, start: Start) -> None:
        sock.setblocking(False)
        self.server = server
        self.sock: socket.socket | TlsSocket = sock
        self.fd = sock.fileno()
        self.inbox = bytearray(64 << 10)
        self.view = memoryview(self.inbox)
        self.have = 0
        self.stream: Stream | None = None
        """the large write whose data is arriving"""
        self.outbox: deque[memoryview | FileSpan] = deque()
        self.queued = 0
        self.pending = 0
        self.held = 0
        self.stalled = False
        """the write that is arriving waits for the disk: nothing more is received meanwhile"""
        self.agreed: Agreement | None = start.agreed if start.over else None
        self.name, self.read_only = start.name, start.read_only
        self.received = 0.0
        """when the first request in the inbox came, while it waits there"""
        self.share: Share | None = None
        self.throttled = 0.0
        """since when it waits because of a limit"""
        self.expected, self.window = -1, 0
        """where a stream of cold reads goes on, and how much of it is read ahead"""
        self.closed = False
        self.leaving = False
        """the client said good-bye: nothing more is received"""
        self.plain = True
        self._paused = self._frozen = False
        self._watched, self._events = True, IN
        self._wanted_end = 0
        self._muted = start.said
        self._negotiation: Negotiation | None = self._begin()
        negotiation = self._negotiation
        self._steps = negotiation.go_on(start.agreed) if start.agreed else negotiation.run()
        server.loop.add(self.fd, IN, self.on_event)
        self._wanted = 0
        if self.agreed:
            self._negotiation = None
            return
        this = weakref.ref(self)  # a timer must not keep a connection that ended
        server.loop.later(HANDSHAKE_SECONDS, lambda: _give_up(this()))

    def open(self, received: bytes) -> None:
        """Say hello to a client that has not heard it, and handle what somebody else received from it."""
        if not self.agreed:
            self._wanted = next(self._steps)
        if received:
            self.need(len(received))
            self.view[: len(received)] = received
            self.have = len(received)
            self._handle()

    # Negotiation

    def _begin(self) -> Negotiation:
        export = self.server.export
        if self.name is not None:
            return Negotiation(Presented(export, self.name, self.read_only), self._say, None)
        offered = ReadOnly(export) if self.read_only else export
        return Negotiation(offered, self._say, self._start_tls if self.server.tls else None)

    def _say(self, data: bytes) -> None:
        """Send what the client has not heard yet."""
        muted = min(self._muted, len(data))
        self._muted -= muted
        self.send(data[muted:])

    def hand_over(self) -> Start | None:
        """Give how another process goes on with this connection; None when it cannot (as with TLS).

        The bytes in the inbox are its first; what there is besides, the caller sees to.
        """
        if not self.plain or self._muted:
            return None
        start = Start(self.name, self.read_only, bytes(self.view[: self.have]), agreed=self.agreed)
        start.over = self.agreed is not None
        if start.over:
            return start
        negotiation = self._negotiation
        if negotiation is None or negotiation.head is None:
            return None
        if negotiation.greeted:
            start.agreed, start.received = negotiation.agreed, negotiation.head + start.received
        else:
            start.said = HELLO.size
        return start

    def _start_tls(self) -> None:
        """Continue under TLS; whatever else was received before was not protected and is refused."""
        if self.have > self._wanted_end or self.outbox or not self.plain:
            raise ProtocolError("data behind STARTTLS")
        from fisk_core.dataplane.tls import TlsSocket

        assert self.server.tls is not None
        assert isinstance(self.sock, socket.socket)
        # A client that is gone makes the library close the descriptor: the loop must not know it then.
        self.server.loop.remove(self.fd)
        self._watched = False
        self.sock, self.plain = TlsSocket(self.sock, self.server.tls), False
        self.server.loop.add(self.fd, self._events, self.on_event)
        self._watched = True

    def _negotiate(self) -> None:
        position = 0
        while self.agreed is None and self.have - position >= self._wanted:
            data = bytes(self.view[position : position + self._wanted])
            position += self._wanted
            self._wanted_end = position
            try:
                self._wanted = self._steps.send(data)
            except StopIteration as stop:
                self.agreed = stop.value
        self._wanted_end = 0
        self.consume(position)
        if self.agreed:
            self._negotiation = None
            self.need(INBOX)
            self.server.transmission.process(self)

    # Input

    def on_event(self, events: int) -> None:
        """Handle what epoll reports; a broken connection is closed, never raised."""
        if self._frozen:
            return
        if events & HUP and self._paused:
            self.close()  # nobody is there for replies, and epoll would tell so without end
            return
        try:
            if events & OUT:
                self._drain()
            if not events & OUT or events & IN:
                self._receive()
        except (ProtocolError, OSError) as exc:
            self.server.note_closed(self, exc)
            self.close()

    def _receive(self) -> None:
        if self._paused or self.have == len(self.inbox):
            return
        try:
            if self.stream and self.plain and self.server.arrivals.receive(self, self.stream):
                return
            if not self.receive(len(self.inbox) - self.have):
                return
        except BlockingIOError:
            return
        self._handle()
        while not self.closed and self._tls_holds_data() and not self._paused:
            self.have += self.sock.recv_into(self.view[self.have :])
            self._handle()

    def receive(self, limit: int) -> int:
        """Receive up to ``limit`` bytes into the inbox; gives how many, 0 when the client is gone."""
        count = self.sock.recv_into(self.view[self.have : self.have + limit])
        if not count:
            self.close()
        self.have += count
        return count

    def _handle(self) -> None:
        if self.agreed is None:
            self._negotiate()
        else:
            self.server.transmission.process(self)

    def consume(self, count: int) -> None:
        """Drop the first ``count`` bytes of the inbox."""
        rest = self.have - count
        if rest and count:
            self.view[:rest] = self.view[count : self.have]
        self.have = rest

    def need(self, length: int) -> None:
        """Make room for a request of ``length`` bytes in all; back to the usual size when it is empty."""
        if length > len(self.inbox) or (not self.have and len(self.inbox) > 2 * INBOX >= 2 * length):
            inbox = bytearray(max(INBOX, length))
            inbox[: self.have] = self.view[: self.have]
            self.inbox, self.view = inbox, memoryview(inbox)

    # Output

    def send(self, data: "bytes | memoryview") -> int:
        """Send now what the socket takes and keep a copy of the rest; ``data`` may be reused afterwards.

        Gives 0: how much of the buffer is in use then.
        """
        sent = self._send_now(data)
        if sent < len(data):
            self._queue(memoryview(bytes(data[sent:])))
        return 0

    def _send_now(self, data: "bytes | memoryview") -> int:
        """Give the bytes the socket took; none while others wait."""
        if self.outbox or not len(data):
            return 0
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def send_own(self, data: memoryview) -> None:
        """Send a buffer that is given away: nothing is copied."""
        sent = self._send_now(data)
        if sent < len(data):
            self._queue(data[sent:])

    def send_view(self, head: bytes, view: memoryview) -> int | None:
        """Send what the socket takes of both; gives how much, None where the memory cannot be read."""
        try:
            return self.sock.sendmsg((head, view))
        except BlockingIOError:
            return 0
        except OSError as exc:
            if exc.errno == errno.EFAULT:
                return None
            raise

    def keep(self, *parts: "bytes | memoryview") -> None:
        """Keep buffers that are given away until the socket takes them."""
        for part in parts:
            if len(part):
                self._queue(memoryview(part))

    def send_file(self, head: bytes, span: FileSpan) -> None:
        """Send ``head`` and then part of a file, by the kernel."""
        self._queue(memoryview(head))
        self.outbox.append(span)
        self.queued += span.length
        self._push()

    def _queue(self, data: memoryview) -> None:
        self.outbox.append(data)
        self.queued += len(data)
        self.watch()

    def _drain(self) -> None:
        """The client takes data again: send, and look at the requests that waited for that."""
        self._push()
        if not self._paused and self.agreed:
            self.server.transmission.process(self)

    def _push(self) -> None:
        """Send what the socket takes of the outbox."""
        try:
            while self.outbox:
                self._push_one(self.outbox[0])
        except BlockingIOError:
            pass
        self.watch()

    def _push_one(self, item: "memoryview | FileSpan") -> None:
        if isinstance(item, FileSpan):
            assert isinstance(self.sock, socket.socket)
            sent = os.sendfile(self.sock.fileno(), item.fd, item.offset, item.length)
            if not sent:
                raise ProtocolError("a layer is shorter than its map says")
            item.offset += sent
            item.length -= sent
            done = not item.length
        else:
            more = socket.MSG_MORE if len(self.outbox) > 1 else 0
            sent = self.sock.send(item, more)
            done = sent == len(item)
            if not done:
                self.outbox[0] = item[sent:]
        self.queued -= sent
        if done:
            self.outbox.popleft()

    # Back-pressure

    @property
    def structured(self) -> bool:
        """Structured replies were agreed on."""
        return self.agreed is not None and self.agreed.structured

    @property
    def full(self) -> bool:
        """The client must take replies, or the disk answer, before more requests are looked at."""
        return (
            self.server.paused
            or self.leaving
            or self.throttled != 0
            or self.stalled
            or self.queued > HIGH_WATER
            or self.pending >= MAX_PENDING
            or self.held > MAX_HELD
            or bool((self.held or self.queued) and self.server.kept > MAX_KEPT)
        )

    def watch(self) -> None:
        """Tell the loop what this connection waits for."""
        if self.closed or self._frozen:
            return
        if self.leaving and not self.pending and not self.outbox:
            self.close()
            return
        paused, self._paused = self._paused, self.full
        if paused and not self._paused and self._tls_holds_data():
            self.server.loop.later(0, self._decrypted)
        events = (0 if self._paused else IN) | (OUT if self.outbox else 0)
        if events != self._events:
            self._events = events
            self.server.loop.change(self.fd, events)

    def freeze(self) -> None:
        """Neither receive nor send: another process is about to go on with this connection."""
        self._frozen = True
        self.server.loop.change(self.fd, 0)

    def thaw(self) -> None:
        """Go on after all."""
        self._frozen = False
        if not self.closed:
            self.server.loop.change(self.fd, self._events)
            self.watch()

    def _decrypted(self) -> None:
        """Take bytes that TLS received already, of which epoll does not tell."""
        if not self.closed:
            self.on_event(IN)

    def _tls_holds_data(self) -> bool:
        """Say whether bytes were received and deciphered that are not in the inbox."""
        return not self.plain and self.sock.pending()  # type: ignore[union-attr]

    def began(self, count: int = 1, held: int = 0) -> None:
        """Count requests that wait for the disk, and the bytes of buffers that they hold."""
        self.pending += count
        self.held += held
        if self.full:
            self.watch()

    def ended(self, count: int = 1, held: int = 0) -> None:
        """Count them as answered, and go on with requests that waited behind them."""
        self.pending -= count
        self.held -= held
        if self._paused and not self.closed and not self.full:
            self.watch()
            self.server.resume(self)
        elif self.leaving:
            self.watch()

    def finish(self) -> None:
        """Close as soon as everything asked for is answered, and the answers are sent."""
        self.leaving = True
        self.watch()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._watched:
            self.server.loop.remove(self.fd)
        self.sock.close()
        self.outbox.clear()
        self._steps.close()  # both refer to this connection, and nothing here collects cycles
        self._negotiation = None
        self.server.forget(self)


def _give_up(conn: Connection | None) -> None:
    if conn is not None and conn.agreed is None:
        conn.close()

# SPDX-License-Identifier: Apache-2.0
"""An NBD client that sends ahead and counts: each request gets one reply, or its connection ends."""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from fisk_core.dataplane import protocol as nbd

PATIENCE = 20.0
"""seconds after which a reply does not come any more"""
_PIECE = 100_100
"""bytes sent at a time"""
_META = Struct(">I")

Told = Callable[[int | None, bytes], None]
"""gets the error of a reply (0 for none) and the data of a read; None when the connection ended before"""


@dataclass(slots=True)
class _Sent:
    kind: int
    offset: int
    length: int
    told: Told
    data: bytearray


class Peer:
    """One connection.  Nothing is read before :meth:`settle`, so that replies pile up at the server."""

    def __init__(self, path: str, name: str, *, structured: bool) -> None:
        """Connect and negotiate; raises OSError or EOFError where the server ends it."""
        self._sock = socket.socket(socket.AF_UNIX)
        self._structured = structured
        self._sent: dict[int, _Sent] = {}
        self._answered: set[int] = set()
        self._cookie = 0
        self.context = -1
        self.problems: list[str] = []
        try:
            self._sock.settimeout(PATIENCE)
            self._sock.connect(path)
            self._negotiate(name)
        except BaseException:
            self._sock.close()
            raise

    # Negotiation

    def _negotiate(self, name: str) -> None:
        self._read(nbd.HELLO.size)
        self._sock.sendall(nbd.CLIENT_FLAGS.pack(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES))
        text = name.encode()
        if self._structured:
            self._option(nbd.OPT_STRUCTURED_REPLY, b"")
            query = nbd.CONTEXT_ALLOCATION.encode()
            parts = (_META.pack(len(text)), text, _META.pack(1), _META.pack(len(query)), query)
            for kind, data in self._option(nbd.OPT_SET_META_CONTEXT, b"".join(parts)):
                if kind == nbd.REP_META_CONTEXT:
                    self.context = _META.unpack_from(data)[0]
        replies = self._option(nbd.OPT_GO, _META.pack(len(text)) + text + b"\0\0")
        if replies[-1][0] != nbd.REP_ACK:
            raise EOFError(f"refused: {replies[-1][1].decode(errors='replace')}")

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        self._sock.sendall(nbd.OPTION.pack(nbd.OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while True:
            _, _, kind, length = nbd.OPTION_REPLY.unpack(self._read(nbd.OPTION_REPLY.size))
            replies.append((kind, self._read(length)))
            if kind == nbd.REP_ACK or kind & nbd.REP_FLAG_ERROR:
                return replies

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._sock.recv(count - len(data))
            if not part:
                raise EOFError("the server closed the connection")
            data += part
        return bytes(data)

    # Requests

    def send(
        self, kind: int, offset: int, length: int, told: Told, payload: bytes = b"", flags: int = 0
    ) -> None:
        """Send a request; ``told`` hears how it ended, in :meth:`settle` or :meth:`close`."""
        if not self.is_open:
            told(None, b"")
            return
        self._cookie += 1
        size = length if kind == nbd.CMD_READ else 0
        self._sent[self._cookie] = _Sent(kind, offset, length, told, bytearray(size))
        head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, kind, self._cookie, offset, length)
        try:
            self._push(head + payload)
        except (OSError, EOFError):
            self.close()

    def _push(self, data: bytes) -> None:
        """Send all, taking replies where the server waits for that."""
        view = memoryview(data)
        while view:
            ready, room, _ = select.select([self._sock], [self._sock], [], PATIENCE)
            if room:
                view = view[self._sock.send(view[:_PIECE]) :]
                if view:
                    time.sleep(0.002)  # so that the server finds part of it
            elif ready:
                self._take()
            else:
                raise TimeoutError

    def settle(self) -> None:
        """Wait until everything sent is answered, or the connection ends."""
        try:
            while self._sent:
                self._take()
        except TimeoutError:
            kinds = [each.kind for each in self._sent.values()]
            self.problems.append(f"{len(kinds)} requests (of kinds {kinds}) got no reply, and no end")
            self.close()
        except (OSError, EOFError):
            self.close()

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    def close(self) -> None:
        """Hang up: what is not answered never will be."""
        if not self.is_open:
            return
        self._sock.close()
        left, self._sent = self._sent, {}
        for sent in left.values():
            sent.told(None, b"")

    def finish(self) -> None:
        """Look for a reply to nothing, and hang up."""
        if self.is_open and select.select([self._sock], [], [], 0)[0]:
            try:
                if more := self._sock.recv(64):
                    self.problems.append(f"{len(more)} bytes came that answer nothing")
            except OSError:
                pass
        self.close()

    # Replies

    def _take(self) -> None:
        magic = int.from_bytes(self._read(4), "big")
        if magic == nbd.SIMPLE_REPLY_MAGIC:
            error, cookie = Struct(">IQ").unpack(self._read(12))
            sent = self._find(cookie)
            if sent.kind == nbd.CMD_READ and not error:
                sent.data[:] = self._read(sent.length)
            self._done(cookie, error)
        elif magic == nbd.STRUCTURED_REPLY_MAGIC:
            self._take_chunk()
        else:
            self.problems.append(f"a reply with the magic number {magic:#x}")
            raise EOFError

    def _take_chunk(self) -> None:
        flags, kind, cookie, length = Struct(">HHQI").unpack(self._read(nbd.CHUNK.size - 4))
        payload, sent, error = self._read(length), self._find(cookie), 0
        if kind == nbd.CHUNK_OFFSET_DATA:
            at = int.from_bytes(payload[:8], "big") - sent.offset
            sent.data[at : at + length - 8] = payload[8:]
        elif kind == nbd.CHUNK_ERROR:
            error = nbd.CHUNK_ERROR_HEAD.unpack_from(payload)[0]
        if flags & nbd.CHUNK_FLAG_DONE:
            self._done(cookie, error)

    def _find(self, cookie: int) -> _Sent:
        sent = self._sent.get(cookie)
        if sent is None:
            again = "a second reply" if cookie in self._answered else "a reply to nothing"
            self.problems.append(f"{again} came (cookie {cookie})")
            raise EOFError
        return sent

    def _done(self, cookie: int, error: int) -> None:
        sent = self._sent.pop(cookie)
        self._answered.add(cookie)
        sent.told(error, bytes(sent.data))

    @property
    def asked(self) -> int:
        """Requests that were sent."""
        return self._cookie

    @property
    def answered(self) -> int:
        """Requests that got their reply."""
        return len(self._answered)


def connected(path: str, name: str, *, structured: bool, alive: Callable[[], bool]) -> Peer | None:
    """Connect as soon as the server listens; None when it ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and alive():
        try:
            return Peer(path, name, structured=structured)
        except (OSError, EOFError):
            time.sleep(0.005)
    return None

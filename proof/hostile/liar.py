# SPDX-License-Identifier: Apache-2.0
"""What a hostile NBD server says to our client, as a program of a few bytes.

The client's cookies count from one, so a server that never listens can answer it well enough to be believed
for a while.  Everything is said at once; then the server hangs up, and so the client must come to an end.
"""

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_handshake import Negotiation
from fisk_core.dataplane.client_stream import Stream
from fisk_core.errors import FiskError
from proof.hostile.judge import require

SIZE = 1 << 20
_MAX_SAID = 64 << 10  # what a socket holds without anybody reading
_SIZES = (SIZE, SIZE, SIZE, 0, 1, 511, 1 << 62, 1 << 63, (1 << 64) - 1)
_BLOCKS = ((1, 4096, 32 << 20), (512, 4096, 65536), (0, 0, 0), (3, 4096, 4096), (1 << 31, 1, 1), (4096, 1, 2),
           (65536, 65536, 0xFFFFFFFF))  # fmt: skip
_KINDS = (p.REP_ACK, p.REP_INFO, p.REP_SERVER, p.REP_META_CONTEXT, p.REP_ERR_UNSUP, p.REP_ERR_UNKNOWN,
          p.REP_ERR_TLS_REQD, 0, 77, 0xFFFFFFFF)  # fmt: skip
_LENGTHS = (0, 1, 8, 9, 12, 520, 4104, 65544, 16 << 20, (16 << 20) + 4, 0x7FFFFFFF, 0xFFFFFFFF)
_CHUNKS = (p.CHUNK_OFFSET_DATA, p.CHUNK_OFFSET_HOLE, p.CHUNK_BLOCK_STATUS, p.CHUNK_ERROR,
           p.CHUNK_ERROR_OFFSET, p.CHUNK_NONE, 3, 0x8003, 0xFFFF)  # fmt: skip
_TEXTS = (b"", b"no", b"\x1b[2J\x1b]0;owned\x07", b"\xff" * 400, "\u202eabc".encode(), b"a\nb: c\r\n" * 100)
T = TypeVar("T")


class _Script:
    """Reads the program and writes what the server says."""

    def __init__(self, program: bytes) -> None:
        self._program, self._at = program, 0
        self.said = bytearray()

    @property
    def done(self) -> bool:
        return self._at >= len(self._program) or len(self.said) > _MAX_SAID

    def take(self, count: int) -> bytes:
        part = self._program[self._at : self._at + count]
        self._at += count
        return part.ljust(count, b"\0")

    def number(self, width: int = 1) -> int:
        return int.from_bytes(self.take(width), "big")

    def pick(self, values: Sequence[T]) -> T:
        return values[self.number() % len(values)]

    def reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.said += p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data

    # Negotiation

    def hello(self, mood: int) -> None:
        flags = 3 if mood & 7 else self.number(2)
        self.said += p.HELLO.pack(p.INIT_MAGIC, p.OPTION_MAGIC, flags) if mood & 56 else self.take(18)

    def structured(self) -> None:
        self.reply(p.OPT_STRUCTURED_REPLY, self.pick((p.REP_ACK, p.REP_ACK, p.REP_ACK, *_KINDS)))

    def contexts(self) -> None:
        for number in range(self.pick((1, 1, 1, 0, 2, 50))):
            name = self.pick((b"base:allocation", b"base:allocation", *_TEXTS))
            self.reply(p.OPT_SET_META_CONTEXT, p.REP_META_CONTEXT, number.to_bytes(4, "big") + name)
        self.reply(p.OPT_SET_META_CONTEXT, self.pick((p.REP_ACK, p.REP_ACK, *_KINDS)), self.pick(_TEXTS))

    def go(self) -> None:
        size, flags = self.pick(_SIZES), self.pick((0xFFFF, 0x0FFF, 3, 1, 0))
        info = (p.INFO_EXPORT_DATA.pack(p.INFO_EXPORT, size, flags),
                p.INFO_BLOCK_SIZE_DATA.pack(p.INFO_BLOCK_SIZE, *self.pick(_BLOCKS)),
                b"\0\2" + self.pick(_TEXTS), self.take(6))  # fmt: skip
        for _ in range(self.number() % 4):
            self.reply(p.OPT_GO, p.REP_INFO, self.pick(info))
        self.reply(p.OPT_GO, p.REP_INFO, info[0])
        self.reply(p.OPT_GO, self.pick((p.REP_ACK, p.REP_ACK, p.REP_ACK, *_KINDS)), self.pick(_TEXTS))

    def odd_reply(self) -> None:
        option = self.pick((p.OPT_STRUCTURED_REPLY, p.OPT_SET_META_CONTEXT, p.OPT_GO, p.OPT_LIST, 99))
        head = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, self.pick(_KINDS), self.pick(_LENGTHS))
        self.said += head + self.take(self.number())

    # Transmission

    def simple(self) -> None:
        cookie, error = self.number() % 24, self.pick((0, 0, 0, 5, 22, 28, 108, 0xFFFFFFFF))
        self.said += p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, cookie)
        self.said += bytes(self.pick((0, 0, 512, 4096, 65536)))

    def chunk(self) -> None:
        cookie, kind = self.number() % 24, self.pick(_CHUNKS)
        offset = self.pick((0, 0, 512, 4096, SIZE - 512, SIZE, 1 << 63, (1 << 64) - 1))
        length = self.pick((512, 4096, 65536, 1, 0))
        payload = {
            p.CHUNK_OFFSET_DATA: p.CHUNK_OFFSET.pack(offset) + bytes(length),
            p.CHUNK_OFFSET_HOLE: p.CHUNK_HOLE.pack(offset, self.pick((512, 4096, 65536, 0xFFFFFFFF, 0))),
            p.CHUNK_BLOCK_STATUS: b"\0\0\0\0" + p.STATUS_EXTENT.pack(length, 3) * (self.number() % 9),
            p.CHUNK_ERROR: p.CHUNK_ERROR_HEAD.pack(self.number(), self.number(2)) + self.pick(_TEXTS),
        }.get(kind, self.take(self.number() % 32))
        said = self.pick((len(payload), len(payload), len(payload), *_LENGTHS))
        head = p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, self.pick((1, 1, 0, 0xFFFF)), kind, cookie, said)
        self.said += head + payload

    def garbage(self) -> None:
        self.said += self.take(self.number())

    def again(self) -> None:
        self.said += self.said[-(1 + self.number(2)) :]


_OPERATIONS: tuple[Callable[[_Script], None], ...] = (
    _Script.chunk, _Script.chunk, _Script.chunk, _Script.simple, _Script.simple, _Script.garbage,
    _Script.again, _Script.odd_reply,
)  # fmt: skip


def speech(program: bytes) -> bytes:
    """Give all that the server says."""
    script = _Script(program)
    mood = script.number()
    script.hello(mood)
    steps = (script.structured, script.contexts, script.go)
    for step in steps:
        (script.odd_reply if script.number() % 16 == 15 else step)()
    while not script.done:
        script.pick(_OPERATIONS)(script)
    return bytes(script.said[:_MAX_SAID])


def listen(program: bytes) -> str:
    """Have our client listen to it; gives how that ended.  Raises Broken, or what is no error of ours."""
    said = speech(program)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        stream = Stream(ours, 20.0, "the liar")
        try:
            return _use(stream)
        except FiskError as exc:
            require(str(exc).isprintable(), f"an unprintable message: {str(exc)!r}")
            return type(exc).__name__
        finally:
            stream.close()


def _use(stream: Stream) -> str:
    """Do what a client does, and see that what it gets makes sense."""
    talk = Negotiation(stream, "the liar")
    if talk.agree_structured():
        talk.agree_contexts("", ["base:allocation"])
    info = talk.go("")
    client = NbdClient(stream, info, "the liar", 4)
    require(0 <= info.size < 1 << 63, "an impossible size was believed")
    end = 0
    for offset, length, _ in client.extents(0, min(info.size, SIZE)):
        require(offset == end and length > 0, "extents that do not follow one another")
        end = offset + length
    for offset, length in ((0, 512), (4096, 65536), (1, 3)):
        with contextlib.suppress(FiskError):
            require(len(client.read(offset, length)) == length, "a read of another length")
    client.write(0, bytes(4096), fua=True)
    client.zero(0, 8192)
    client.trim(0, 8192)
    client.flush()
    return "done"

# SPDX-License-Identifier: Apache-2.0
"""Bytes become a conversation with an NBD server: mostly sensible, wrong where it hurts.

A *program* is any byte string.  :func:`conversation` reads it as a list of operations (options, requests,
lengths that lie, garbage, pauses) and gives what to send.  So a fuzzer that knows nothing of NBD, and one
that only swaps bytes, both come past the magic numbers; and each input file of the corpus is a few bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fisk_core.dataplane import protocol as p

MAX_SENT = 192 << 10
"""bytes of one conversation, and one more operation"""
_MAX_OPERATIONS = 64
_FLAGS = (3, 3, 3, 3, 2, 1, 0, 4, 0xFFFFFFFF)
_OPTIONS = (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 0, 4, 99, 0xFFFFFFFF)
_LENGTHS = (
    512, 1, 511, 0, 513, 2048, 4096, 5000, 4096, 65536, 65537, 512, 131072, 100_000,
    32 << 20, (32 << 20) + 1, (1 << 31) - 1, 0xFFFFFFFF,
)  # fmt: skip
_OFTEN = 12  # of _LENGTHS: a payload of so many bytes is no burden
_KINDS = (0, 0, 1, 1, 3, 4, 5, 6, 7, 0, 1, 2, 8, 0xFFFF)
_REQUEST_FLAGS = (0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 3, 17, 32, 0xFFFF)
_QUERIES = (
    b"base:allocation", b"qemu:allocation-depth", b"base:", b"qemu:", b"", b"fisk:", b"fisk:diff:",
    b"fisk:diff:../../../etc/passwd", b"fisk:diff:\0", b"base:allocation\n", b"\xff\xfe",
)  # fmt: skip

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """What is attacked: the ``size`` of the disk, names worth trying, and the name of the ``export``."""

    size: int
    names: Sequence[bytes]
    queries: Sequence[bytes] = ()
    export: bytes = b""


@dataclass(slots=True)
class Conversation:
    """What is sent: ``parts``, with time for the server between them."""

    parts: list[bytes] = field(default_factory=list)

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)


class _Builder:
    """Reads the program and writes the conversation."""

    def __init__(self, program: bytes, world: World) -> None:
        self.world = world
        self._program, self._at = program, 0
        self.parts: list[bytearray] = [bytearray()]
        self._total = 0
        self._cookie = 0
        self._last = b""

    @property
    def done(self) -> bool:
        return self._at >= len(self._program) or self._total > MAX_SENT

    def take(self, count: int) -> bytes:
        part = self._program[self._at : self._at + count]
        self._at += count
        return part.ljust(count, b"\0")

    def number(self, width: int = 1) -> int:
        return int.from_bytes(self.take(width), "big")

    def pick(self, values: Sequence[T]) -> T:
        return values[self.number() % len(values)]

    def put(self, data: bytes) -> None:
        self._last = data
        self._total += len(data)
        self.parts[-1] += data

    # Operations

    def option(self) -> None:
        """An option with the data that belongs to it."""
        self.put(_option(*self._usual(self.pick(_OPTIONS))))

    def _usual(self, option: int) -> tuple[int, bytes]:
        name = self.pick([self.world.export, self.world.export, *self.world.names])
        if option in (p.OPT_INFO, p.OPT_GO):
            kinds = [self.pick((3, 1, 2, 0, 99)) for _ in range(self.number() % 6)]
            return option, _text(name) + len(kinds).to_bytes(2, "big") + b"".join(
                kind.to_bytes(2, "big") for kind in kinds
            )
        if option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            queries = [self.pick([*_QUERIES, *self.world.queries]) for _ in range(self.number() % 6)]
            return option, _text(name) + len(queries).to_bytes(4, "big") + b"".join(map(_text, queries))
        return option, name if option == p.OPT_EXPORT_NAME else b""

    def odd_option(self) -> None:
        """An option with any data."""
        self.put(_option(self.pick(_OPTIONS), self.take(self.number())))

    def lying_option(self) -> None:
        """An option whose inner lengths are anything."""
        option, data = self._usual(self.pick((6, 7, 9, 10)))
        at = self.number() % max(1, len(data) - 3)
        self.put(_option(option, data[:at] + self.take(4) + data[at + 4 :]))

    def long_option(self) -> None:
        """An option of a length that nobody wants; only part of it comes, or all."""
        length = self.pick((4096, 65535, 65536, 65537, 100_000, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF))
        head = p.OPTION.pack(p.OPTION_MAGIC, self.pick(_OPTIONS), length)
        self.put(head + bytes(min(length, self.pick((0, 100, 65536, 65537, 100_000)))))

    def many_options(self) -> None:
        self.put(_option(*self._usual(self.pick(_OPTIONS))) * (1 + self.number() % 200))

    def go(self) -> None:
        self.put(_option(p.OPT_GO, _text(self.world.export) + b"\0\0"))

    def request(self) -> None:
        kind, flags = self.pick(_KINDS), self.pick(_REQUEST_FLAGS)
        self._request(kind, flags, self._offset(), self.pick(_LENGTHS[:_OFTEN]))

    def large_request(self) -> None:
        kind, flags = self.pick(_KINDS), self.pick(_REQUEST_FLAGS)
        self._request(kind, flags, self._offset(), self.pick(_LENGTHS))

    def aligned_write(self) -> None:
        """A large write that is streamed, or the like."""
        blocks = 1 + self.number() % 300
        self._request(p.CMD_WRITE, self.pick((0, 1)), self.number() * 512, blocks * 512)

    def _offset(self) -> int:
        size = self.world.size
        return self.pick(
            (
                self.number(2) * 512 % size, self.number(3) % size, 0, size - 512, size - 1, size, size + 1,
                1 << 63, (1 << 64) - 512, self.number(8),
            )
        )  # fmt: skip

    def _request(self, kind: int, flags: int, offset: int, length: int) -> None:
        self._cookie += 1
        payload = b""
        if kind == p.CMD_WRITE:
            seed = bytes([self._cookie & 0xFF, self.number()])
            payload = (seed * (80 << 10))[:length]
        offset &= 0xFFFFFFFFFFFFFFFF
        self.put(p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, self._cookie, offset, length) + payload)

    def odd_request(self) -> None:
        """The magic number, and anything."""
        self.put(p.REQUEST_MAGIC.to_bytes(4, "big") + self.take(24))

    def garbage(self) -> None:
        self.put(self.take(self.number()))

    def cut(self) -> None:
        """Take back the end of what was said last: what follows is read as the rest of it."""
        count = self.number() % (len(self.parts[-1]) + 1)
        if count:
            del self.parts[-1][-count:]

    def again(self) -> None:
        for _ in range(1 + self.number() % 8):
            if not self.done:
                self.put(self._last)

    def pause(self) -> None:
        self.parts.append(bytearray())

    def disconnect(self) -> None:
        self._request(p.CMD_DISC, 0, 0, 0)


_NEGOTIATING: tuple[Callable[[_Builder], None], ...] = (
    _Builder.option, _Builder.option, _Builder.option, _Builder.odd_option, _Builder.lying_option,
    _Builder.long_option, _Builder.many_options, _Builder.garbage, _Builder.pause, _Builder.cut, _Builder.go,
    _Builder.request,
)  # fmt: skip
_TRANSMITTING: tuple[Callable[[_Builder], None], ...] = (
    _Builder.request, _Builder.request, _Builder.request, _Builder.request, _Builder.large_request,
    _Builder.aligned_write, _Builder.again, _Builder.pause, _Builder.pause, _Builder.odd_request,
    _Builder.garbage, _Builder.cut, _Builder.disconnect,
)  # fmt: skip


def conversation(program: bytes, world: World) -> Conversation:
    """Read a program; the same bytes give the same conversation."""
    builder = _Builder(program, world)
    head = builder.number()
    if head & 0x80:  # a quarter of them negotiate at length
        _introduce(builder, head)
        operations = _TRANSMITTING
    else:
        builder.put(p.CLIENT_FLAGS.pack(builder.pick(_FLAGS)))
        operations = _NEGOTIATING
    for _ in range(_MAX_OPERATIONS):
        if builder.done:
            break
        builder.pick(operations)(builder)
    return Conversation([bytes(part) for part in builder.parts if part])


def _introduce(builder: _Builder, head: int) -> None:
    """Say what a client says that means it."""
    builder.put(p.CLIENT_FLAGS.pack(3))
    if head & 1:
        builder.put(_option(p.OPT_STRUCTURED_REPLY, b""))
        if head & 2:
            wanted = (b"base:allocation", b"qemu:allocation-depth", *builder.world.queries)
            data = _text(builder.world.export) + len(wanted).to_bytes(4, "big") + b"".join(map(_text, wanted))
            builder.put(_option(p.OPT_SET_META_CONTEXT, data))
    if head & 4:
        builder.put(_option(p.OPT_EXPORT_NAME, builder.world.export))
    else:
        builder.go()
    if head & 8:
        builder.pause()


def _option(option: int, data: bytes) -> bytes:
    return p.OPTION.pack(p.OPTION_MAGIC, option, len(data)) + data


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data

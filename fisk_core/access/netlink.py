# SPDX-License-Identifier: Apache-2.0
"""Generic netlink, as much as a block device takes: find a family, ask it, hear what it announces.

https://docs.kernel.org/userspace-api/netlink/intro.html — integers are the host's own, everything is padded
to four bytes.  A message is a ``HEADER``, a ``GENERIC`` header, then attributes.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from types import TracebackType
from typing import Self

from fisk_core.errors import NotFound, PoolError

HEADER = Struct("=IHHII")
"""struct nlmsghdr: 32 bits length of all, 16 type, 16 flags, 32 sequence number, 32 port."""
GENERIC = Struct("=BBH")
"""struct genlmsghdr: 8 bits command, 8 version, 16 reserved."""
ATTRIBUTE = Struct("=HH")
"""struct nlattr: 16 bits length with this header, 16 type; then the value."""
U32 = Struct("=I")
U64 = Struct("=Q")
_U16 = Struct("=H")
_CODE = Struct("=i")

_PROTOCOL = 16  # NETLINK_GENERIC
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR = 2
_NESTED = 1 << 15
_CONTROL, _GET_FAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME, _MOST_ATTRIBUTES, _GROUPS = 1, 2, 5, 7
_GROUP_NAME, _GROUP_ID = 1, 2
_BUFFER = 1 << 16
SECONDS = 60.0
"""how long the kernel may take to answer: it waits for what is under way on a device"""


def attribute(kind: int, value: bytes) -> bytes:
    """Give the wire form of one attribute."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Give the wire form of an attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Take attributes apart: (type, value); raises PoolError for what is none."""
    while data:
        length, kind = ATTRIBUTE.unpack_from(data) if len(data) >= ATTRIBUTE.size else (0, 0)
        if not ATTRIBUTE.size <= length <= len(data):
            raise PoolError(f"the kernel sent a malformed attribute of {length} bytes")
        yield kind & ~_NESTED, data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Take what one receive gave apart: (type, sequence number, payload); raises PoolError."""
    while data:
        length, kind, _, number, _ = HEADER.unpack_from(data) if len(data) >= HEADER.size else (0, 0, 0, 0, 0)
        if not HEADER.size <= length <= len(data):
            raise PoolError(f"the kernel sent a malformed message of {length} bytes")
        yield kind, number, data[HEADER.size : length]
        data = data[(length + 3) & ~3 :]


class Family:
    """A generic netlink family; raises NotFound where the kernel has none of that name."""

    def __init__(self, name: str) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL)
        self._sock.settimeout(SECONDS)
        self._number = 0
        try:
            found = self._ask(_CONTROL, _GET_FAMILY, attribute(_FAMILY_NAME, name.encode() + b"\0"))
        except FileNotFoundError:
            self.close()
            raise NotFound(f"this kernel knows no netlink family {name}") from None
        except BaseException:
            self.close()
            raise
        (self._id,) = _U16.unpack(found[_FAMILY_ID])
        (self.most_attributes,) = U32.unpack(found[_MOST_ATTRIBUTES])
        self._groups = found.get(_GROUPS, b"")

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, command: int, *parts: bytes) -> dict[int, bytes]:
        """Have the family do ``command``; gives the attributes of its answer, raises OSError."""
        return self._ask(self._id, command, *parts)

    def listen(self, group: str) -> socket.socket:
        """Give a socket that receives what the family announces to ``group``; raises NotFound."""
        for _, entry in attributes(self._groups):
            described = dict(attributes(entry))
            if described[_GROUP_NAME].rstrip(b"\0") == group.encode():
                sock = socket.socket(socket.AF_NETLINK, self._sock.type | socket.SOCK_CLOEXEC, _PROTOCOL)
                sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, *U32.unpack(described[_GROUP_ID]))
                return sock
        raise NotFound(f"the netlink family has no group {group}")

    def _ask(self, family: int, command: int, *parts: bytes) -> dict[int, bytes]:
        self._number += 1
        body = GENERIC.pack(command, 1, 0) + b"".join(parts)
        flags = _REQUEST | _ACKNOWLEDGE
        self._sock.send(HEADER.pack(HEADER.size + len(body), family, flags, self._number, 0) + body)
        answer: dict[int, bytes] = {}
        while True:
            for kind, number, payload in messages(self._sock.recv(_BUFFER)):
                if number != self._number:  # of a request given up
                    continue
                if kind != _ERROR:
                    answer.update(attributes(payload[GENERIC.size :]))
                elif (code := -_CODE.unpack_from(payload)[0]) != 0:
                    raise OSError(code, os.strerror(code))
                else:
                    return answer


def announcements(sock: socket.socket) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Give what arrived at a socket of ``listen``: (command, attributes); waits for nothing."""
    with suppress(BlockingIOError):
        while True:
            for _, _, payload in messages(sock.recv(_BUFFER, socket.MSG_DONTWAIT)):
                yield payload[0], dict(attributes(payload[GENERIC.size :]))

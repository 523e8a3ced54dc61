# SPDX-License-Identifier: Apache-2.0
"""What one process gives another: a JSON document, the bytes and the descriptors it speaks of.

Document and bytes are in an unnamed file in memory, so that their size has no limit; the document refers to
bytes by ``[offset, length]`` in it, and to descriptors by their number.  The first message carries the
file, the following ones the descriptors, in order.
"""

import json
import os
import socket
from typing import Any, Self

from fisk_core.dataplane.descriptors import MAX_PASSED, Descriptors, receive, send
from fisk_core.errors import ProtocolError, Unsupported

FORMAT = 1
_DESCRIPTORS = b"descriptors"
_COPY = 1 << 20
_PER_MESSAGE = 200
assert _PER_MESSAGE <= MAX_PASSED

Place = list[int]
"""[offset, length] in the file"""
NONSENSE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""what reading a document raises that is not what it should be"""


class Parcel:
    """A parcel being packed; its descriptors stay the packer's."""

    def __init__(self) -> None:
        self._file = os.memfd_create("fisk", os.MFD_CLOEXEC)
        self._end = 0
        self._fds: list[int] = []

    def add_bytes(self, data: "bytes | memoryview") -> Place:
        """Add bytes; gives their place."""
        start, view = self._end, memoryview(data)
        while view:
            count = os.pwrite(self._file, view, self._end)
            view, self._end = view[count:], self._end + count
        return [start, self._end - start]

    def add_span(self, fd: int, offset: int, length: int) -> Place:
        """Add part of a file; raises ProtocolError when it is shorter."""
        start, end = self._end, offset + length
        while offset < end:
            data = os.pread(fd, min(_COPY, end - offset), offset)
            if not data:
                raise ProtocolError("a file is shorter than what was to be sent of it")
            self.add_bytes(data)
            offset += len(data)
        return [start, length]

    def add_fd(self, fd: int) -> int:
        """Add a descriptor; gives its number."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def send(self, sock: socket.socket, document: dict[str, Any]) -> None:
        """Send everything over a SOCK_SEQPACKET pair; raises OSError."""
        place = self.add_bytes(json.dumps(document).encode())
        head = {"format": FORMAT, "document": place, "descriptors": len(self._fds)}
        send(sock, json.dumps(head).encode(), [self._file])
        for at in range(0, len(self._fds), _PER_MESSAGE):
            send(sock, _DESCRIPTORS, self._fds[at : at + _PER_MESSAGE])

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Delivery:
    """A parcel that arrived.  Close it: descriptors nobody took go then."""

    def __init__(self, sock: socket.socket) -> None:
        """Wait for it; raises EOFError when something else comes, ProtocolError, Unsupported for a format."""
        self._file = Descriptors()
        self._fds: dict[int, int] = {}
        self.document: dict[str, Any] = {}
        try:
            self._receive(sock)
        except NONSENSE as exc:
            self.close()
            raise ProtocolError(f"a hand-over that makes no sense: {exc!r}") from exc
        except BaseException:
            self.close()
            raise

    def _receive(self, sock: socket.socket) -> None:
        head, self._file = receive(sock, 4096)
        if not head.startswith(b"{"):
            raise EOFError
        fields = json.loads(head)
        if fields.get("format") != FORMAT:
            raise Unsupported(f"a hand-over of format {fields.get('format')!r} is not known here")
        while len(self._fds) < fields["descriptors"]:
            data, fds = receive(sock, 4096)
            if data != _DESCRIPTORS:
                fds.close()
                raise EOFError
            if not fds:
                raise ProtocolError("descriptors were lost on their way")
            for fd in fds.take_all():
                self._fds[len(self._fds)] = fd
        self.document = json.loads(self.bytes(fields["document"]))

    def bytes(self, place: Place) -> bytes:
        offset, length = place
        parts = []
        while length:
            data = os.pread(self._file.first, length, offset)
            if not data:
                raise ProtocolError("a hand-over that is cut short")
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def take(self, number: int) -> int:
        """Give a descriptor, which belongs to the caller from now on."""
        return self._fds.pop(number)

    def take_socket(self, number: int) -> socket.socket:
        return socket.socket(fileno=self.take(number))

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

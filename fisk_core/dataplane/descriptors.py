# SPDX-License-Identifier: Apache-2.0
"""Passing descriptors over unix sockets, so that each one that arrives has an owner or is closed."""

import array
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from fisk_core.errors import InvalidValue

MAX_PASSED = 250
"""descriptors in one message (the kernel takes 253)"""


class Descriptors:
    """Descriptors that came with a message, in its order; those nobody takes are closed."""

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self._fds = list(fds)

    def __len__(self) -> int:
        return len(self._fds)

    def __iter__(self) -> Iterator[int]:
        return iter(self._fds)

    def add(self, fds: Iterable[int]) -> None:
        self._fds.extend(fds)

    @property
    def first(self) -> int:
        """The next one, which stays here; raises InvalidValue when there is none."""
        if not self._fds:
            raise InvalidValue("the message came without the descriptor it speaks of")
        return self._fds[0]

    def take(self) -> int:
        """Give the next one, which the caller owns from now on; raises InvalidValue when there is none."""
        fd = self.first
        self._fds.remove(fd)
        return fd

    def take_all(self) -> list[int]:
        """Give all of them."""
        fds, self._fds = self._fds, []
        return fds

    def take_socket(self) -> socket.socket:
        """Give the next one as a socket; raises InvalidValue when there is none, or it is another thing."""
        fd = self.take()
        try:
            return socket.socket(fileno=fd)
        except OSError as exc:
            os.close(fd)
            raise InvalidValue("the descriptor is not that of a socket") from exc

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def send(sock: socket.socket, data: "bytes | memoryview", fds: Sequence[int] = ()) -> int:
    """Send ``data`` with descriptors, which stay the caller's too; gives the bytes the socket took."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], rights)


def receive(sock: socket.socket, size: int, most: int = MAX_PASSED) -> tuple[bytes, Descriptors]:
    """Receive up to ``size`` bytes and ``most`` descriptors; raises OSError.

    Descriptors this process has no room for are lost: whoever counts on them finds too few.
    """
    # Not socket.recv_fds, which leaves its flags out of the call: programs would inherit what arrived.
    fds = array.array("i")
    data, rights, _, _ = sock.recvmsg(size, socket.CMSG_LEN(most * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, Descriptors(fds)

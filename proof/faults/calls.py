# SPDX-License-Identifier: Apache-2.0
"""The functions of the operating system that can fail, and what each can end in instead.

``short`` does half of what was asked for, ``EINTR`` is answered by the kernel itself (see ``interrupts``),
the rest are errors.  Three faults stay: from ``full`` on nothing more takes space; after ``gone`` every call
on a file fails; ``stuck`` is want of space, and then every other call on a file fails.  A descriptor is
always closed by close(2), whatever it returns, so that one never fails here.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SHORT, EINTR, FULL, GONE, STUCK = "short", "EINTR", "full", "gone", "stuck"
STAYING = (FULL, GONE, STUCK)
FILE, SOCKET, PROCESS = "file", "socket", "process"
"""what a call is on: a file or directory, a peer, something of the process alone"""

Part = Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
"""gives the arguments that ask for half as much, None where that cannot be"""

_IO = ("EIO",)
_SPACE = ("EIO", "ENOSPC", "EDQUOT")
_PEER = ("ECONNRESET",)
_TABLE = ("EMFILE",)


@dataclass(frozen=True, slots=True)
class Call:
    """One function; ``interrupted`` names the system calls by which it may be interrupted."""

    name: str
    errors: tuple[str, ...] = _IO
    area: str = FILE
    part: Part | None = None
    interrupted: tuple[str, ...] = ()

    def kinds(self, arguments: tuple[Any, ...]) -> tuple[str, ...]:
        """Give what this call, with these arguments, can end in instead."""
        kinds = list(self.errors)
        if self.name == "os.open" and arguments[1] & os.O_CREAT:
            kinds += _SPACE[1:]
        if self.part is not None and self.part(arguments) is not None:
            kinds.append(SHORT)
        if self.interrupted:
            kinds.append(EINTR)
        if self.area == FILE:
            kinds.append(GONE)
            if "ENOSPC" in kinds:
                kinds += [FULL, STUCK]
        return tuple(kinds)


def error_of(kind: str) -> int:
    """Give the number of the error that a fault of this kind makes a call return."""
    code: int = getattr(errno, {FULL: "ENOSPC", STUCK: "ENOSPC", GONE: "EIO"}.get(kind, kind))
    return code


def _half(count: int) -> int | None:
    return count // 2 if count > 1 else None


def _count_at(place: int) -> Part:
    """Halve the number at a place of the arguments."""

    def part(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        half = _half(arguments[place])
        return None if half is None else (*arguments[:place], half, *arguments[place + 1 :])

    return part


def _buffer_at(place: int) -> Part:
    """Cut the buffer at a place of the arguments to half."""

    def part(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        view = memoryview(arguments[place]).cast("B")
        half = _half(len(view))
        return None if half is None else (*arguments[:place], view[:half], *arguments[place + 1 :])

    return part


def _buffers(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Cut a list of buffers, the second argument, to half of what they hold together."""
    views = [memoryview(each).cast("B") for each in arguments[1]]
    left = _half(sum(map(len, views)))
    if left is None:
        return None
    kept: list[memoryview] = []
    for view in views:
        if left:
            kept.append(view[:left])
            left -= len(kept[-1])
    return (arguments[0], kept, *arguments[2:])


def _os(names: str, errors: Sequence[str] = _IO, **more: Any) -> list[Call]:
    return [Call(f"os.{name}", tuple(errors), **more) for name in names.split()]


OS: list[Call] = [
    *_os("open", interrupted=("openat", "open")),
    *_os("read", part=_count_at(1), interrupted=("read",)),
    *_os("pread", part=_count_at(1), interrupted=("pread64",)),
    *_os("preadv", part=_buffers, interrupted=("preadv", "preadv2")),
    *_os("readv", part=_buffers, interrupted=("readv",)),
    *_os("write", _SPACE, part=_buffer_at(1), interrupted=("write",)),
    *_os("pwrite", _SPACE, part=_buffer_at(1), interrupted=("pwrite64",)),
    *_os("pwritev", _SPACE, part=_buffers, interrupted=("pwritev", "pwritev2")),
    *_os("copy_file_range", _SPACE, part=_count_at(2), interrupted=("copy_file_range",)),
    *_os("splice", _SPACE, part=_count_at(2), interrupted=("splice",)),
    *_os("sendfile", part=_count_at(3), interrupted=("sendfile",)),
    *_os("fsync fdatasync", _SPACE, interrupted=("fsync", "fdatasync")),
    *_os("ftruncate truncate", _SPACE, interrupted=("ftruncate", "truncate")),
    *_os("posix_fallocate", _SPACE, interrupted=("fallocate",)),
    *_os("rename replace link mkdir symlink", _SPACE),
    *_os("unlink rmdir stat lstat fstat listdir scandir lseek posix_fadvise chmod"),
    *_os("statvfs", interrupted=("statfs",)),
    *_os("pipe2", _TABLE, area=PROCESS),
]
FCNTL = [
    Call("fcntl.flock", ("EIO", "ENOLCK"), interrupted=("flock",)),
    Call("fcntl.ioctl"),
    Call("fcntl.fcntl", ("EPERM",), PROCESS),
]
MMAP = [Call("mmap.mmap", ("ENOMEM", "EIO"))]
OPEN = [Call("open", interrupted=("openat", "open"))]
STREAM = [
    Call("file.read", part=_count_at(1), interrupted=("read",)),
    Call("file.readinto", part=_buffer_at(1), interrupted=("read",)),
    Call("file.write", _SPACE, part=_buffer_at(1), interrupted=("write",)),
]
SOCKETS = [
    Call("socket.send", _PEER, SOCKET, _buffer_at(1), ("sendto",)),
    Call("socket.sendall", _PEER, SOCKET, None, ("sendto",)),
    Call("socket.recv", _PEER, SOCKET, _count_at(1), ("recvfrom",)),
    Call("socket.recv_into", _PEER, SOCKET, _buffer_at(1), ("recvfrom",)),
    Call("socket.accept", ("ECONNABORTED", "EMFILE"), SOCKET, None, ("accept4", "accept")),
    Call("socket.connect", ("ECONNREFUSED", "EIO"), SOCKET),
    Call("socket.bind", _SPACE, SOCKET),
    Call("socket.listen", ("EADDRINUSE",), SOCKET),
    Call("socket.setsockopt", ("EPERM",), SOCKET),
]
LIBC = [
    Call("libc.fallocate", _SPACE, interrupted=("fallocate",)),
    Call("libc.syscall", ("ENOSYS", "EIO"), PROCESS),
    Call("libc.prctl", ("EPERM",), PROCESS),
]
CALLS = {each.name: each for group in (OS, FCNTL, MMAP, OPEN, STREAM, SOCKETS, LIBC) for each in group}

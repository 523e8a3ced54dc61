# SPDX-License-Identifier: Apache-2.0
"""System calls that the kernel itself answers with an error: seccomp(2) asks this process before each.

Python calls again by itself when a system call was interrupted (PEP 475), so an EINTR thrown by Python code
would prove nothing.  And SQLite makes its calls without Python.  So a filter hands the calls of one thread,
and of all that it starts, to a supervisor, which lets them go on or answers for the kernel.
"""

import ctypes
import errno
import fcntl
import gc
import os
import platform
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

_NUMBERS = {
    "x86_64": {
        "seccomp": 317, "read": 0, "write": 1, "open": 2, "pread64": 17, "pwrite64": 18, "readv": 19,
        "sendfile": 40, "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45, "flock": 73, "fsync": 74,
        "fdatasync": 75, "truncate": 76, "ftruncate": 77, "unlink": 87, "statfs": 137, "openat": 257,
        "splice": 275, "fallocate": 285, "accept4": 288, "preadv": 295, "pwritev": 296,
        "copy_file_range": 326, "preadv2": 327, "pwritev2": 328,
    },
    "aarch64": {
        "seccomp": 277, "read": 63, "write": 64, "pread64": 67, "pwrite64": 68, "readv": 65, "sendfile": 71,
        "connect": 203, "accept": 202, "sendto": 206, "recvfrom": 207, "flock": 32, "fsync": 82,
        "fdatasync": 83, "truncate": 45, "ftruncate": 46, "statfs": 43, "openat": 56, "splice": 76,
        "fallocate": 47, "accept4": 242, "preadv": 69, "pwritev": 70, "copy_file_range": 285, "preadv2": 286,
        "pwritev2": 287,
    },
}  # fmt: skip
NUMBERS = _NUMBERS.get(platform.machine(), {})
NAMES = {number: name for name, number in NUMBERS.items()}

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1
_NOTICE = struct.Struct("=QIIiIQ6Q")

_libc = ctypes.CDLL(None, use_errno=True)


class SystemCall(NamedTuple):
    """One call of a thread, before the kernel does it."""

    thread: int
    name: str
    arguments: tuple[int, ...]


Answer = Callable[[SystemCall], int]
"""the number of the error that it ends in, 0 to let it go on"""


def supervise(answer: Answer) -> bool:
    """Have ``answer`` decide on the system calls of this thread and of those it starts, until it ends.

    False where this kernel or machine cannot do that.  Garbage is collected by hand from then on: chance
    would have the supervisor do it, which then waited in SQLite for the mutex of a connection whose holder
    waits for its answer.
    """
    if not NUMBERS:
        return False
    gc.disable()
    found: list[int] = []
    ready = threading.Event()
    threading.Thread(target=_serve, args=(found, ready, answer), name="supervisor", daemon=True).start()
    program = _program()
    code = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(
        struct.pack("=H6xQ", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    )
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = _libc.syscall(NUMBERS["seccomp"], _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(head))
    found.append(listener)
    ready.set()
    return bool(listener >= 0)


def _program() -> bytes:
    """A filter: the calls we know go to the supervisor, all others on."""
    numbers = sorted(set(NUMBERS.values()) - {NUMBERS["seccomp"]})
    steps = [_INSTRUCTION.pack(_LOAD, 0, 0, 0)]
    steps += [
        _INSTRUCTION.pack(_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)
    ]
    return b"".join(
        (*steps, _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW), _INSTRUCTION.pack(_RETURN, 0, 0, _NOTIFY))
    )


def _serve(found: list[int], ready: threading.Event, answer: Answer) -> None:
    ready.wait()
    listener = found[0]
    while listener >= 0:
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.EINTR):  # the thread was killed meanwhile
                continue
            return
        identity, thread, _, number, _, _, *arguments = _NOTICE.unpack(notice)
        code = answer(SystemCall(thread, NAMES[number], tuple(arguments)))
        reply = _ANSWER.pack(identity, 0, -code, 0 if code else _CONTINUE)
        try:
            fcntl.ioctl(listener, _SEND, reply)
        except OSError:  # the same
            continue


def is_ours(thread: int) -> bool:
    """Say whether a thread is one of this process, and not of a program that it runs."""
    return os.path.exists(f"/proc/self/task/{thread}")


def file_of(descriptor: int) -> str:
    """Give the path of an open file of this process, "" when it is none."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor & 0xFFFFFFFF}")
    except OSError:
        return ""

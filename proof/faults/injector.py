# SPDX-License-Identifier: Apache-2.0
"""Stands between fisk_core and the functions of the operating system: counts their calls, and fails one.

A *site* is a place in fisk_core that calls such a function, itself or through a module of Python's library
(``Path.unlink``).  A call is named by its site and how many this site had made before, which does not depend
on how threads are scheduled as much as its number among all would.  SQLite's system calls have one site for
each kind of them.
"""

import _thread
import builtins
import ctypes
import fcntl
import io
import mmap
import os
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import fisk_core
from fisk_core import _linux
from proof.faults import calls, interrupts
from proof.faults.cache import PageCache
from proof.faults.calls import CALLS, EINTR, FULL, GONE, SHORT, STAYING, STUCK, Call
from proof.faults.interrupts import SystemCall

CORE = str(Path(fisk_core.__file__).parent) + os.sep
_LIBRARY = {
    str(Path(os.__file__).parent / name)
    for name in (
        "contextlib.py", "genericpath.py", "os.py", "pathlib.py", "posixpath.py", "shutil.py", "socket.py",
        "tempfile.py",
    )
} | {"<frozen os>", "<frozen genericpath>", "<frozen posixpath>", f"{CORE}files.py"}  # fmt: skip
"""through which fisk_core calls the operating system"""
SQLITE = "sqlite"
_CATALOG = ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.sqlite-journal")
_SQLITE_CALLS = {
    "pread64": ("EIO", EINTR),
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT", EINTR, FULL, STUCK),
    "write": ("EIO", "ENOSPC", "EDQUOT", EINTR, FULL, STUCK),
    "ftruncate": ("EIO", "ENOSPC", EINTR),
    "fallocate": ("EIO", "ENOSPC", EINTR),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC"),
}


class Site(NamedTuple):
    """A place that calls: the file within fisk_core, and where the expression begins; and what it calls."""

    file: str
    line: int
    column: int
    call: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.call}"


class Fault(NamedTuple):
    """What is to go wrong: the call ``number`` (from 0) of a site, in the way ``kind``."""

    site: Site
    number: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} at call {self.number} of {self.site}"


class Meeting(NamedTuple):
    """A call that was made, and what it could have ended in instead."""

    site: Site
    number: int
    kinds: tuple[str, ...]


@dataclass
class Injector:
    """Notes every call; makes one of them fail when there is a ``fault``."""

    fault: Fault | None = None
    met: bool = False
    """the fault has happened"""
    trace: list[Meeting] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """what nobody may do: calling fsync once more where it failed"""
    active: bool = False
    without: dict[str, str] = field(default_factory=dict)
    """calls that this file system does not know, and the error by which it says so"""
    failed: set[Site] = field(default_factory=set)
    """where a call was made to fail"""
    may_sync_again: bool = False
    """who is fenced has the kernel write what it holds, also after an fsync failed, and believes no answer"""
    slow: bool = False
    """files are as on a slow disk: what is asked for without waiting is not there at first, but soon"""
    _read: set[tuple[int, int]] = field(default_factory=set)
    """(descriptor, offset) of what was asked for without waiting"""
    _counts: Counter[Site] = field(default_factory=Counter)
    _lock: Any = field(default_factory=_thread.allocate_lock)
    cache: PageCache = field(default_factory=PageCache)
    _armed: tuple[int, tuple[str, ...]] | None = None
    """the thread whose next system call of these names is to be interrupted"""

    # What is done with one call

    def meet(
        self, call: Call, function: Callable[..., Any], arguments: tuple[Any, ...], more: dict[str, Any]
    ) -> Any:
        """Make a call in its turn, or fail it."""
        site = self._site(call.name) if self.active else None
        if site is None:
            return function(*arguments, **more)
        kinds = call.kinds(arguments)
        kind = self._decide(site, kinds, call)
        if call.name in ("os.fsync", "os.fdatasync"):
            self._watch_sync(site, arguments[0], kind)
        elif kind in (None, SHORT, EINTR):
            self.cache.about_to(call.name, arguments, more)
        if kind is None and call.name in self.without:
            return self._fail(call, self.without[call.name], arguments)
        if kind in (None, EINTR, SHORT):
            try:
                arguments = self._like_a_disk(call, arguments)
            except BlockingIOError:
                self.met = self.met and kind is None
                raise
        if kind is None:
            return function(*arguments, **more)
        if kind == EINTR:
            return self._interrupt(call, function, arguments, more)
        if kind == SHORT:
            assert call.part is not None
            return function(*(call.part(arguments) or arguments), **more)
        return self._fail(call, kind, arguments)

    def _decide(self, site: Site, kinds: tuple[str, ...], call: Call | None = None) -> str | None:
        """Note a call; gives how it is to fail."""
        with self._lock:
            number = self._counts[site]
            self._counts[site] += 1
            self.trace.append(Meeting(site, number, kinds))
            fault = self.fault
            if fault is None:
                return None
            here, kind = (fault.site, fault.number) == (site, number), fault.kind
            if self.met and kind == STUCK and STUCK not in kinds:
                kind = GONE
            if (here or (self.met and kind in STAYING)) and kind in kinds:
                self.met = True
                self.failed.add(site)
                return kind
            return None

    def _watch_sync(self, site: Site, fd: int, kind: str | None) -> None:
        if self.cache.has_failed(fd) and not self.may_sync_again:
            self.problems.append(f"{site} was called again for a descriptor for which it had failed")
        if kind is not None and kind != EINTR:
            self.cache.failed(fd)
        else:
            self.cache.synced(fd)

    def _like_a_disk(self, call: Call, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Have a read that must not wait miss the first time; file systems in memory cannot be asked so."""
        if not self.slow or call.name != "os.preadv" or len(arguments) < 4 or not arguments[3]:
            return arguments
        what = (arguments[0], arguments[2])
        if what not in self._read:
            self._read.add(what)
            raise BlockingIOError
        return arguments[:3]

    def _interrupt(
        self, call: Call, function: Callable[..., Any], arguments: tuple[Any, ...], more: Any
    ) -> Any:
        """Have the kernel interrupt the call once; Python is to call again by itself."""
        self._armed = (threading.get_native_id(), call.interrupted)
        try:
            return function(*arguments, **more)
        finally:
            if self._armed is not None:
                self._armed, self.met = None, False  # it made no such system call

    def _fail(self, call: Call, kind: str, arguments: tuple[Any, ...]) -> int:
        code = calls.error_of(kind)
        if call.name.startswith("libc."):  # as C does it
            ctypes.set_errno(code)
            return -1
        path = arguments[0] if arguments and isinstance(arguments[0], (str, os.PathLike)) else None
        raise OSError(code, os.strerror(code), path)

    # The kernel asks

    def answer(self, call: SystemCall) -> int:
        """Decide on a system call: one to be interrupted, or one of SQLite."""
        if self._armed is not None and self._armed[0] == call.thread and call.name in self._armed[1]:
            self._armed = None
            return calls.error_of(EINTR)
        kinds = _SQLITE_CALLS.get(call.name)
        if not self.active or kinds is None or not interrupts.is_ours(call.thread):
            return 0
        name = os.path.basename(interrupts.file_of(call.arguments[0]))
        if name not in _CATALOG:
            return 0
        kind = self._decide(Site(SQLITE, 0, 0, f"{call.name} {name.partition('-')[2] or 'db'}"), kinds)
        return 0 if kind is None else calls.error_of(kind)

    # Who calls

    def _site(self, name: str) -> Site | None:
        """Give the place in fisk_core that is calling; None for anybody else."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(CORE) and file not in _LIBRARY:
                line, column = _place(frame.f_code, frame.f_lasti)
                return Site(file[len(CORE) :], line, column, name)
            if file != __file__ and file not in _LIBRARY:
                return None
            frame = frame.f_back
        return None

    # Coming between

    def install(self) -> None:
        """Stand between from now on, for the rest of this process."""
        for call in calls.OS:
            self._between(os, call.name.partition(".")[2], call)
        for call in calls.FCNTL:
            self._between(fcntl, call.name.partition(".")[2], call)
        for call in calls.SOCKETS:
            self._between(socket.socket, call.name.partition(".")[2], call, method=True)
        self._between(mmap, "mmap", CALLS["mmap.mmap"])
        _linux._libc = _Libc(self, _linux._libc)  # type: ignore[assignment]
        self._between_open()
        self._between_close()
        self.active = True

    def _between(self, owner: Any, name: str, call: Call, method: bool = False) -> None:
        function = getattr(owner, name)
        meet = self.meet

        def between(*arguments: Any, **more: Any) -> Any:
            return meet(call, function, arguments, more)

        setattr(owner, name, between)

    def _between_open(self) -> None:
        function, call = io.open, CALLS["open"]

        def between(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **more: Any) -> Any:
            if not self.active or self._site("open") is None:
                return function(file, mode, buffering, *arguments, **more)
            if isinstance(file, int):
                return _opened(self, file, mode, buffering, *arguments, **more)
            return self.meet(
                call, lambda *_: _opened(self, file, mode, buffering, *arguments, **more), (file,), {}
            )

        io.open = builtins.open = between

    def _between_close(self) -> None:
        function = os.close

        def close(fd: int) -> None:
            self.cache.closing(fd)
            function(fd)

        os.close = close


class _Libc:
    """The C library as ``_linux`` calls it."""

    def __init__(self, injector: Injector, real: Any) -> None:
        self._injector, self._real = injector, real

    def __getattr__(self, name: str) -> Any:
        function, call = getattr(self._real, name), CALLS[f"libc.{name}"]

        def between(*arguments: Any) -> Any:
            return self._injector.meet(call, function, arguments, {})

        return between


class _File(io.FileIO):
    """A file whose reads and writes can fail."""

    injector: Injector

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        found: bytes = self._meet("file.read", super().read, size)
        return found

    def readall(self) -> bytes:
        parts = []
        while part := self.read(1 << 16):
            parts.append(part)
        return b"".join(parts)

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._meet("file.readinto", super().readinto, buffer)
        return count

    def write(self, data: Any, /) -> int:
        count: int = self._meet("file.write", super().write, data)
        return count

    def _meet(self, name: str, function: Any, argument: Any) -> Any:
        # The call sees the file first, as the functions of os see its descriptor.
        def call(_: object, data: Any) -> Any:
            return function(data)

        return self.injector.meet(CALLS[name], call, (self, argument), {})


def _opened(
    injector: Injector,
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Do what open() does, with a file of ours below."""
    raw = _File(file, "".join(each for each in mode if each not in "bt"), closefd, opener)
    raw.injector = injector
    if buffering == 0:
        return raw
    buffered: Any
    if "+" in mode:
        buffered = io.BufferedRandom(raw)
    else:
        buffered = (io.BufferedReader if "r" in mode else io.BufferedWriter)(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


_PLACES: dict[tuple[CodeType, int], tuple[int, int]] = {}


def _place(code: CodeType, instruction: int) -> tuple[int, int]:
    """Give line and column of the expression that an instruction belongs to."""
    found = _PLACES.get((code, instruction))
    if found is None:
        positions = list(code.co_positions())[instruction // 2]
        found = _PLACES[code, instruction] = (positions[0] or 0, positions[2] or 0)
    return found


def explain(problem: BaseException) -> str:
    """Give an exception with the places of fisk_core that it came through, in one line."""
    places = [
        f"{frame.filename[len(CORE) :]}:{frame.lineno}"
        for frame in traceback.extract_tb(problem.__traceback__)
        if frame.filename.startswith(CORE)
    ]
    return f"{type(problem).__name__}: {problem} (through {', '.join(places)})"

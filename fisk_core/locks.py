# SPDX-License-Identifier: Apache-2.0
"""File locks (flock) that survive the removal of the lock file and end with the process that holds them.

A lock belongs to the open file, not to the process: it works between threads too, and can be handed to a
program that replaces this one by leaving ``fd`` open.  ``acquire`` never returns a lock on a file that was
unlinked meanwhile, so holding one and finding the row gone means the thing it guarded is gone.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from fisk_core import files
from fisk_core.errors import InUse, from_oserror

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02


class Lock:
    """A held lock; ``fd`` is the descriptor that carries it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def release(self) -> None:
        """Let go; harmless when done twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Unlink the file and let go: what it guarded is gone."""
        try:
            files.remove(self.path)
        finally:
            self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def acquire(path: Path, *, shared: bool = False, timeout: float = 0.0) -> Lock:
    """Lock ``path``, creating it; waits up to ``timeout`` seconds, then raises InUse."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        fd = _try_lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if fd is not None:
            return Lock(path, fd)
        if time.monotonic() >= deadline:
            raise InUse(f"{path.name} is locked by another process")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock, shared or not; creates nothing."""
    if not files.exists(path):
        return False
    try:
        acquire(path).release()
    except InUse:
        return True
    return False


def _try_lock(path: Path, kind: int) -> int | None:
    """Give a locked descriptor of the file that now has this name, or None when another holds it."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise from_oserror(exc, f"lock {path}") from exc
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(fd)
            if isinstance(exc, BlockingIOError):
                return None
            raise from_oserror(exc, f"lock {path}") from exc
        try:
            named = _is_named(fd, path)
        except OSError as exc:
            os.close(fd)
            raise from_oserror(exc, f"lock {path}") from exc
        if named:
            return fd
        os.close(fd)


def _is_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False

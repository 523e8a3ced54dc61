# SPDX-License-Identifier: Apache-2.0
"""Files of this host that jobs may read and write: those below the directories an administrator named.

A path is opened first and judged afterwards, by where the kernel says that the opened thing is; what is read
or written then is that thing and no other.  So it does not matter who exchanges a directory or a link on the
way meanwhile.  (Who may make hard links in an allowed directory may offer any file it can link to; Linux
allows that for one's own files only, see ``fs.protected_hardlinks``.)
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fisk_core.errors import Forbidden, InvalidValue, from_oserror

_REFUSED = "is not below a directory that jobs may use ([jobs] directories)"
_BAD_PATH = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def opened_source(path: str, allowed: Sequence[Path]) -> Iterator[IO[bytes]]:
    """Open a regular file for reading.  Raises Forbidden, NotFound, InvalidValue, PoolError."""
    _require_below(path, allowed)
    found = _open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _require_inside(found, path, allowed)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise InvalidValue(f"{path} is not a regular file")
        # Through the descriptor: the very file that was judged, whatever has its name now.
        stream = os.fdopen(_open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=0)
    finally:
        os.close(found)
    with stream:
        yield stream


@contextmanager
def opened_folder(path: str, allowed: Sequence[Path]) -> Iterator[tuple[int, str]]:
    """Give (descriptor of its directory, its name) for a file to be made.  Raises like ``opened_source``."""
    _require_below(path, allowed)
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise InvalidValue(f"{path} is not the name of a file")
    found = _open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_inside(found, path, allowed)
        yield found, name
    finally:
        os.close(found)


def _require_below(path: str, allowed: Sequence[Path]) -> None:
    """Refuse by its words what is not even said to be below a directory: nobody learns what is there."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not os.path.isabs(path) or b"\0" in encoded:
        raise InvalidValue(f"{path!r} is not an absolute path")
    said = Path(os.path.normpath(path))
    if not any(said.is_relative_to(known) for each in allowed for known in (each, os.path.realpath(each))):
        raise Forbidden(f"{path} {_REFUSED}")


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags)
    except PermissionError as exc:
        raise Forbidden(f"open {path}: {exc.strerror}") from exc
    except OSError as exc:
        if exc.errno in _BAD_PATH:
            raise InvalidValue(f"open {path}: {exc.strerror}") from exc
        raise from_oserror(exc, f"open {path}") from exc


def _require_inside(fd: int, path: str, allowed: Sequence[Path]) -> None:
    """Raise Forbidden unless what is open lies in one of the directories, or is one."""
    real = Path(os.readlink(f"/proc/self/fd/{fd}"))
    if not any(real.is_relative_to(os.path.realpath(each)) for each in allowed):
        raise Forbidden(f"{path} {_REFUSED}")

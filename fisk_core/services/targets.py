# SPDX-License-Identifier: Apache-2.0
"""Where a download goes: a new file, complete or not there at all, or a stream."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fisk_core import files
from fisk_core.errors import AlreadyExists, InvalidValue, from_oserror

_ZEROS = memoryview(bytes(1 << 20))


@contextmanager
def opened_stream(target: str | Path | IO[bytes], overwrite: bool) -> Iterator[IO[bytes] | None]:
    """Give the stream that ``target`` is, None when it is the path of a file to be made.

    Streams are ``"-"`` (standard output), file objects, and paths of pipes, terminals and devices; what a
    block device held is lost, so that needs ``overwrite``.
    """
    if target == "-":
        yield sys.stdout.buffer
    elif not isinstance(target, (str, Path)):
        yield target
    elif mode := _special(target):
        if stat.S_ISBLK(mode) and not overwrite:
            raise AlreadyExists(f"{target} is a device; say that its content may be overwritten")
        try:
            stream = open(target, "r+b" if stat.S_ISBLK(mode) else "wb", buffering=0)  # noqa: SIM115
        except OSError as exc:
            raise from_oserror(exc, f"open {target}") from exc
        with stream:
            yield stream
    else:
        yield None


def _special(path: str | Path) -> int:
    """Give the mode of what is there, 0 for nothing or a file; raises InvalidValue for a directory."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return 0  # making the file will say what is wrong, if anything is
    if stat.S_ISDIR(mode):
        raise InvalidValue(f"{path} is a directory")
    return 0 if stat.S_ISREG(mode) else mode


@contextmanager
def new_file(path: str | Path, overwrite: bool) -> Iterator[tuple[int, Path]]:
    """Give (fd, path) of a temporary file that becomes ``path``, durably, when the block ends well.

    Otherwise it is removed, and what was at ``path`` stays.  Raises AlreadyExists, NotFound, NoSpace,
    PoolError.
    """
    final = Path(os.path.realpath(path))
    if not overwrite and os.path.lexists(final):
        raise AlreadyExists(f"{path} exists already")
    temporary = final.parent / f".fisk-{os.urandom(8).hex()}.part"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as exc:
        raise from_oserror(exc, f"make a file in {final.parent}") from exc
    try:
        yield fd, temporary
        try:
            _move(fd, temporary, final, overwrite)
        except OSError as exc:
            raise from_oserror(exc, f"write {path}") from exc
    finally:
        os.close(fd)
        files.remove(temporary)


def _move(fd: int, temporary: Path, final: Path, overwrite: bool) -> None:
    os.fsync(fd)
    if overwrite or not _link(temporary, final):
        os.replace(temporary, final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(temporary: Path, final: Path) -> bool:
    """Name the file, unless the name was taken meanwhile; False where the file system has no links."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(final):
            raise
        return False
    return True


def write_all(stream: IO[bytes], data: memoryview) -> None:
    """Write all of ``data`` to a stream, buffered or not."""
    while data:
        try:
            count = stream.write(data)
        except OSError as exc:
            raise from_oserror(exc, "write to the stream") from exc
        data = data[count if count is not None else len(data) :]


def write_zeros(stream: IO[bytes], length: int) -> None:
    while length > 0:
        part = _ZEROS[: min(length, len(_ZEROS))]
        write_all(stream, part)
        length -= len(part)


def flush(stream: IO[bytes]) -> None:
    """Hand what is buffered to the system."""
    try:
        stream.flush()
    except OSError as exc:
        raise from_oserror(exc, "write to the stream") from exc

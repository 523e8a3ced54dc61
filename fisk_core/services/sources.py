# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from: a file that can be read anywhere, or a stream that can be read once."""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from fisk_core.errors import InvalidValue, PoolError, from_oserror
from fisk_core.files import named

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """``fd`` of a regular file or block device of ``size`` bytes, or a ``stream`` to be read to its end."""

    label: str
    fd: int | None = None
    size: int = 0
    stream: IO[bytes] | None = None


@contextmanager
def opened(source: str | Path | IO[bytes]) -> Iterator[Source]:
    """Open a path, ``"-"`` (standard input) or a binary file object.

    A file object on a regular file that was not read yet is used as the file, so its holes are seen.  Raises
    NotFound, InvalidValue, PoolError.
    """
    if source == "-":
        yield _of_stream(sys.stdin.buffer, "standard input")
    elif isinstance(source, (str, Path)):
        with open_path(source) as stream:
            yield _of_stream(stream, str(source))
    else:
        yield _of_stream(source, str(getattr(source, "name", "stream")))


def open_path(path: str | Path, mode: Literal["rb", "r+b"] = "rb") -> IO[bytes]:
    """Open a file for access in large pieces; raises NotFound, InvalidValue, PoolError."""
    try:
        return open(path, mode, buffering=0)
    except IsADirectoryError:
        raise InvalidValue(f"{path} is a directory, not an image") from None
    except OSError as exc:
        raise from_oserror(exc, f"open {path}") from exc
    except ValueError as exc:
        raise InvalidValue(f"{path!r} is not a path: {exc}") from exc


def _of_stream(stream: IO[bytes], label: str) -> Source:
    try:
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
        if (stat.S_ISREG(mode) or stat.S_ISBLK(mode)) and stream.tell() == 0:
            return Source(label, fd=fd, size=os.lseek(fd, 0, os.SEEK_END))
        if stat.S_ISFIFO(mode):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CHUNK)  # sixteen times fewer turns between us and the writer
    except OSError:
        pass  # no descriptor behind it, or one that cannot seek: it is a stream
    return Source(label, stream=stream)


def is_regular(fd: int) -> bool:
    """Say whether it is a regular file; raises PoolError."""
    return stat.S_ISREG(_status(fd).st_mode)


def _status(fd: int) -> os.stat_result:
    with named("look at", "the image"):
        return os.fstat(fd)


def may_change(fd: int) -> bool:
    """Say whether an open file can be written by somebody other than us (and root)."""
    found = _status(fd)
    if not stat.S_ISREG(found.st_mode):
        return False  # who may write a block device of the host is trusted
    others = stat.S_IWGRP | stat.S_IWOTH
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & others)


def read_up_to(stream: IO[bytes], view: memoryview) -> int:
    """Fill ``view`` from a stream; gives the bytes read, fewer only at the end."""
    done = 0
    try:
        while done < len(view) and (data := stream.read(len(view) - done)) != b"":
            if data is None:  # "nothing now" must not be taken for the end
                raise InvalidValue("the stream does not wait for its data (it is in non-blocking mode)")
            view[done : done + len(data)] = data
            done += len(data)
    except OSError as exc:
        raise from_oserror(exc, "read the stream") from exc
    return done


def pread_into(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from ``offset`` of a file; raises PoolError where it ends early."""
    done = 0
    while done < len(view):
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError as exc:
            raise from_oserror(exc, "read the image") from exc
        if not count:
            raise PoolError("the image file became shorter while it was read")
        done += count


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Give (offset, length) of what may hold data in a file; all of it where holes cannot be seen."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            start, end = offset, size
        yield start, min(end, size) - start
        offset = end


def pieces(
    extents: Iterator[tuple[int, int]], block: int, chunk: int, size: int
) -> Iterator[tuple[int, int]]:
    """Widen ascending extents to whole blocks and cut them at multiples of ``chunk``.

    None comes twice, none passes ``size``.  ``chunk`` is a multiple of ``block``.
    """
    done = 0
    for offset, length in extents:
        start = max(done, offset // block * block)
        done = max(done, min(size, -(-(offset + length) // block) * block))
        while start < done:
            end = min(done, (start // chunk + 1) * chunk)
            yield start, end - start
            start = end

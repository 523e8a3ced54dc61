# SPDX-License-Identifier: Apache-2.0
"""Files that appear as a whole or not at all, and temporary files a crash cannot leak for ever.

Everything here raises OSError as ``os`` does; ``named`` turns it into the typed error, in one place.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from fisk_core.errors import InvalidValue
from fisk_core.files import named as named

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def is_temporary(name: str) -> bool:
    """Say whether a file of that name was made by ``temporary``: no pool object is called so."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    sync_file(path, os.O_DIRECTORY)


def sync_file(path: str, flags: int = 0) -> None:
    """fsync(2) a file or directory by its path."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Append all of ``data`` to a file: write(2) may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def temporary(directory: str) -> Iterator[tuple[int, str]]:
    """Give (fd, path) of a new empty file, locked for as long as it is in use, removed at the end.

    The lock tells ``sweep`` that its maker lives.  A sweep may still come between creation and lock;
    it is seen by the lost link, and another file is made.
    """
    while True:
        path = os.path.join(directory, f".{os.urandom(8).hex()}.tmp")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                yield fd, path
                return
        finally:
            with suppress(OSError):  # renamed by its maker, or swept; where that fails it will be swept
                os.unlink(path)
            os.close(fd)


def sweep(directory: str) -> int:
    """Remove the temporary files of a directory that no process holds; gives their number."""
    removed = 0
    for name in filter(is_temporary, os.listdir(directory)):
        removed += _remove_if_unheld(os.path.join(directory, name))
    return removed


def _remove_if_unheld(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(fd)
    return True


def replace(path: str, chunks: Iterable[bytes], durable: bool) -> None:
    """Put ``chunks`` at ``path`` as a whole: a crash or an error at any step leaves the old content or none.

    The order, and the crash each step is there for:

    1. write a temporary file beside it: a crash leaves the old file, and a temporary one to sweep;
    2. fdatasync it: without that, a power loss after 3 could leave the new name with missing content;
    3. rename: from here every reader sees the new content, all of it;
    4. fsync the directory: without that, a power loss could still bring the old file back after we
       returned, when others already rely on the new one.

    Not ``durable`` leaves out 2 and 4: whole for every process, but a power loss may undo or damage it.
    """
    directory = os.path.dirname(path)
    with temporary(directory) as (fd, temporary_path):
        for chunk in chunks:
            write_all(fd, chunk)
        if durable:
            os.fdatasync(fd)
        os.rename(temporary_path, path)
    if durable:
        sync_directory(directory)


def replace_many(contents: Sequence[tuple[str, bytes]]) -> None:
    """Put each content at its path durably, every one as a whole, as ``replace`` does.

    Step by step for all of them: the first sync commits what the others need too, so many take little
    longer than one.
    """
    with ExitStack() as stack:
        files = [(stack.enter_context(temporary(os.path.dirname(path))), path) for path, _ in contents]
        for ((fd, _), _), (_, data) in zip(files, contents, strict=True):
            write_all(fd, data)
        for (fd, _), _ in files:
            os.fdatasync(fd)
        for (_, temporary_path), path in files:
            os.rename(temporary_path, path)
    for directory in sorted({os.path.dirname(path) for path, _ in contents}):
        sync_directory(directory)


def is_there(path: str) -> bool:
    """Say whether a file has that name."""
    with named("stat", path):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
    return True


def largest(path: str, limit: int) -> int:
    """Give the largest size up to ``limit`` that a file can have, in whole 4 KiB; the file ends up sparse."""
    low, high = 0, limit >> 12
    while low < high:
        middle = (low + high + 1) // 2
        try:
            os.truncate(path, middle << 12)
            low = middle
        except OSError as exc:
            if exc.errno not in (errno.EFBIG, errno.EINVAL):
                raise
            high = middle - 1
    return low << 12


def make_root(path: str) -> None:
    """Make the pool's directory and those missing above it, each durable in the one above."""
    if _is_directory(path):
        return
    parent = os.path.dirname(path)
    make_root(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError as exc:
        if not _is_directory(path):
            raise InvalidValue(f"{path} is not a directory") from exc
    sync_directory(parent)


def _is_directory(path: str) -> bool:
    """Say whether it is one; False when there is nothing, or something else, but not when nobody can tell."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def directories(path: str) -> Iterator[str]:
    """Give the paths of the directories in a directory."""
    with os.scandir(path) as entries:
        yield from (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))

# SPDX-License-Identifier: Apache-2.0
"""Small files, looked for, made and removed: with typed errors where the system fails."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from fisk_core.errors import from_oserror


@contextmanager
def named(doing: str, path: "str | os.PathLike[str]") -> Iterator[None]:
    """Turn an OSError into the typed error that says what was being done to which file."""
    try:
        yield
    except OSError as exc:
        raise from_oserror(exc, f"{doing} {os.fspath(path)}") from exc


def exists(path: Path) -> bool:
    """Say whether there is such a file; raises PoolError when that cannot be known."""
    with named("look for", path):
        return path.exists()


def remove(path: Path) -> None:
    """Unlink the file if it is there; raises PoolError, ReadOnly."""
    with named("remove", path):
        path.unlink(missing_ok=True)


def matching(directory: Path, pattern: str) -> list[Path]:
    """Give the files of a directory whose names match, sorted; raises PoolError."""
    with named("list", directory):
        return sorted(directory.glob(pattern))


def free_bytes(directory: "str | os.PathLike[str]") -> tuple[int, int]:
    """Give the bytes of a file system, and those that are free for us; raises OSError."""
    while True:
        try:
            found = os.statvfs(directory)
        except InterruptedError:  # the one system call of its kind that Python does not make again itself
            continue
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


@contextmanager
def scratch_directory() -> Iterator[str]:
    """Give the path of a directory that only we can enter, gone at the end; raises NoSpace, PoolError."""
    with named("make", "a temporary directory"):
        path = tempfile.mkdtemp(prefix="fisk-")
    try:
        yield path
    finally:
        with suppress(OSError):  # it holds nothing that anybody needs
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_file() -> Iterator[IO[bytes]]:
    """Give a file without a name, gone at the end; raises NoSpace, PoolError."""
    with ExitStack() as stack:
        with named("make", "a temporary file"):
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        yield file

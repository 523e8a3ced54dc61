# SPDX-License-Identifier: Apache-2.0
"""Unix sockets at paths of any length: the kernel takes 107 bytes, a directory's descriptor stands in."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fisk_core import errors

MAX_PATH = 107
"""bytes of a path that any client can connect to"""


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of the same socket that is short enough for bind(2) and connect(2)."""
    if len(os.fsencode(path)) <= MAX_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(sock: socket.socket, path: "str | os.PathLike[str]") -> None:
    """Connect a unix socket; raises OSError."""
    with _short(Path(path)) as name:
        sock.connect(name)


def listen(path: str) -> socket.socket:
    """Listen at ``path``, taking the place of a socket nobody listens at; raises InUse or what bind says."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_dead(Path(path))
        with _short(Path(path)) as name:
            listener.bind(name)
        os.chmod(path, 0o600)
        listener.listen(128)
    except OSError as exc:
        listener.close()
        raise errors.from_oserror(exc, f"listen at {path}") from exc
    except errors.FiskError:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path) -> None:
    """Unlink a socket that no process listens at; raises InUse when one does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            connect(probe, path)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise errors.InUse(f"something listens at {path} already")

# SPDX-License-Identifier: Apache-2.0
"""A Fisk as one file: where it is, and the process that serves it (``fuse_server``).

Why that is a program of our own, and not one of those that can mount an NBD export: see the documentation of
access paths.
"""

import os
import sys
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

from fisk_core.access.helpers import Helper
from fisk_core.access.mounts import is_mounted, unmount
from fisk_core.dataplane.client_uri import parse_uri
from fisk_core.errors import PoolError, from_oserror

_SERVER = "fisk_core.access.fuse_server"
_REFRESH = "user.fisk.refresh"


def lacking() -> str | None:
    """Say what this host lacks to serve a file."""
    if find_spec("mfusepy") is None:
        return "the Python library mfusepy is not installed"
    if find_library("fuse3") is None:
        return "libfuse 3 is not installed (Debian: fuse3)"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse; load the kernel module fuse"
    if os.geteuid() != 0:
        return "mounting needs root"
    return None


class FuseFile:
    """The file ``path`` in ``directory``, and the process that serves it, there or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "disk.raw"
        self.helper = Helper(directory, "fuse")

    @property
    def alive(self) -> bool:
        return self.helper.running and is_mounted(self.path)

    def start(self, uri: str, *, read_only: bool) -> None:
        """Have the file there; one whose server died is replaced."""
        parse_uri(uri)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.alive:
            return
        self.helper.end()
        unmount(self.path, force=True)
        self.path.touch(0o600)
        command = [sys.executable, "-m", _SERVER, uri, self.path.name, "ro" if read_only else "rw"]
        self.helper.start(command, {"FUSE_LIBRARY_NAME": "fuse3"})
        self.helper.wait_until(lambda: is_mounted(self.path))

    def stop(self, *, force: bool) -> None:
        """Take the file away; raises InUse while it is open, unless forced."""
        unmount(self.path, force=force)
        self.helper.end()
        # It may have been mounted between the two, by a helper that was only just starting.
        unmount(self.path, force=True)
        self.path.unlink(missing_ok=True)
        self.helper.remove()
        if self.directory.exists():
            self.directory.rmdir()

    def resized(self, size: int) -> None:
        """Show the new size; raises PoolError when the worker does not know it either."""
        try:
            os.setxattr(self.path, _REFRESH, b"")
            shown = self.path.stat().st_size
        except OSError as exc:
            raise from_oserror(exc, f"ask {self.path} for its size") from exc
        if shown != size:
            raise PoolError(f"{self.path} has {shown} bytes and not {size}: its worker knows no better")

# SPDX-License-Identifier: Apache-2.0
"""A Fisk as a loop device over the FUSE file, with direct I/O, so that nothing is cached in between."""

from pathlib import Path

from fisk_core.access import fuse, loops
from fisk_core.access.fuse import FuseFile


class LoopedFile:
    """The device of the attachment in ``directory``, there or not.  Taken away in reverse order."""

    def __init__(self, directory: Path) -> None:
        self._file = FuseFile(directory)

    @staticmethod
    def lacking() -> str | None:
        """Say what this host lacks for such a device."""
        return fuse.lacking() or loops.lacking()

    @property
    def alive(self) -> bool:
        return self._file.alive and bool(loops.devices_of(self._file.path))

    @property
    def path(self) -> Path | None:
        """The device, if it is there."""
        return next(iter(loops.devices_of(self._file.path)), None)

    def start(self, uri: str, *, read_only: bool, sector_size: int) -> Path:
        """Have the device there, over a file that is served; gives its path."""
        if not self._file.alive:
            # Before the dead file goes: afterwards nothing tells which device was over it.
            loops.detach(self._file.path, force=True)
        self._file.start(uri, read_only=read_only)
        return loops.attach(self._file.path, read_only=read_only, sector_size=sector_size)

    def stop(self, *, force: bool) -> None:
        """Take the device away, then the file; raises InUse, unless forced."""
        loops.detach(self._file.path, force=force)
        self._file.stop(force=force)

    def resized(self, uri: str, size: int) -> None:
        """Show the new size; raises PoolError when the worker at ``uri`` does not know it either."""
        self._file.resized(size)
        loops.resized(self._file.path)

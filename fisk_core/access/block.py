# SPDX-License-Identifier: Apache-2.0
"""Access path ``block``: a block device of the host.

A loop device over the FUSE file, with direct I/O, so that nothing is cached between the device and the
worker.  It works with every kernel, whether it has an NBD client or not.  Taken away in reverse order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisk_core.access import fuse, loops
from fisk_core.access.base import AccessPath, Details
from fisk_core.access.file import planned, refuse_unknown
from fisk_core.access.fuse import FuseFile
from fisk_core.errors import InvalidValue
from fisk_core.model import Fisk

_SECTOR_SIZES = (512, 4096)


class Block(AccessPath):
    """Option ``sector_size`` (512 or 4096): bytes of the device's logical blocks."""

    name = "block"

    def available(self) -> str | None:
        return fuse.lacking() or loops.lacking()

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        self.require()
        refuse_unknown(options, known=("sector_size",))
        sector_size = options.get("sector_size", _SECTOR_SIZES[0])
        if sector_size not in _SECTOR_SIZES:
            raise InvalidValue(f"a sector of {sector_size!r} bytes; it has 512 or 4096")
        return {**planned(uri, directory, read_only), "sector_size": sector_size}

    def connect(self, details: Details) -> str | None:
        file = FuseFile(Path(details["directory"]))
        if not file.alive:
            # Before the dead file goes: afterwards nothing tells which device was over it.
            loops.detach(file.path, force=True)
        file.start(details["uri"], read_only=details["read_only"])
        device = loops.attach(file.path, read_only=details["read_only"], sector_size=details["sector_size"])
        return str(device)

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        file = FuseFile(Path(details["directory"]))
        loops.detach(file.path, force=force)
        file.stop(force=force)

    def alive(self, details: Details) -> bool:
        file = FuseFile(Path(details["directory"]))
        return file.alive and bool(loops.devices_of(file.path))

    def resized(self, details: Details, size: int) -> None:
        file = FuseFile(Path(details["directory"]))
        file.resized(size)
        loops.resized(file.path)

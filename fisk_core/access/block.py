# SPDX-License-Identifier: Apache-2.0
"""Access path ``block``: a block device of the host.

One of the kernel's NBD client where that is present; else a loop device over the FUSE file, which works with
every kernel.  Which it is, is decided once, when the attachment is planned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisk_core import files
from fisk_core._linux import drop_cached
from fisk_core.access.base import AccessPath, Details
from fisk_core.access.file import planned, refuse_unknown
from fisk_core.access.kernel_nbd import KernelNbd
from fisk_core.access.looped import LoopedFile
from fisk_core.errors import InvalidValue, MissingTool
from fisk_core.model import Fisk

_SECTOR_SIZES = {"512": 512, "4096": 4096}
_BACKENDS: dict[str, type[KernelNbd] | type[LoopedFile]] = {"nbd": KernelNbd, "loop": LoopedFile}
"""in the order in which they are preferred"""


class Block(AccessPath):
    """Options: ``sector_size`` (512 or 4096), bytes of a logical block; ``backend`` (nbd or loop)."""

    name = "block"
    moves_in_use = True

    def available(self) -> str | None:
        missing = {name: kind.lacking() for name, kind in _BACKENDS.items()}
        if None in missing.values():
            return None
        return "; ".join(f"{name}: {sentence}" for name, sentence in missing.items())

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        refuse_unknown(options, known=("sector_size", "backend"))
        sector_size = _SECTOR_SIZES.get(str(options.get("sector_size", 512)))
        if sector_size is None:
            raise InvalidValue(f"a sector of {options['sector_size']!r} bytes; it has 512 or 4096")
        backend = self._chosen(options.get("backend"))
        return {**planned(uri, directory, read_only), "sector_size": sector_size, "backend": backend}

    def _chosen(self, wanted: str | None) -> str:
        """Give the backend asked for, or the first that works here; raises MissingTool, InvalidValue."""
        if wanted is None:
            self.require()
            return next(name for name, kind in _BACKENDS.items() if kind.lacking() is None)
        if wanted not in _BACKENDS:
            raise InvalidValue(f"there is no backend {wanted!r} (known: {', '.join(_BACKENDS)})")
        if lacking := _BACKENDS[wanted].lacking():
            raise MissingTool(f"access path '{self.name}' with backend '{wanted}': {lacking}")
        return wanted

    def connect(self, details: Details) -> str | None:
        device = _device(details)
        return str(
            device.start(details["uri"], read_only=details["read_only"], sector_size=details["sector_size"])
        )

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        _device(details).stop(force=force)

    def alive(self, details: Details) -> bool:
        return _device(details).alive

    def took_over(self, details: Details) -> None:
        """Drop the pages that udev and others read of the device before; dirty ones are written first.

        Direct I/O never sees them.
        """
        path = _device(details).path
        with files.named("drop cached pages of", path or self.name):
            if path is not None:
                drop_cached(path)

    def resized(self, details: Details, size: int) -> None:
        _device(details).resized(details["uri"], size)


def _device(details: Details) -> KernelNbd | LoopedFile:
    """Give the device of the attachment; one made before there was a choice is a loop device."""
    return _BACKENDS[details.get("backend", "loop")](Path(details["directory"]))

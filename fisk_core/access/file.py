# SPDX-License-Identifier: Apache-2.0
"""Access path ``file``: an ordinary-looking file with the Fisk's content, for programs that open files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisk_core.access import fuse
from fisk_core.access.base import AccessPath, Details
from fisk_core.access.fuse import FuseFile
from fisk_core.errors import InvalidValue
from fisk_core.model import Fisk


class File(AccessPath):
    """A FUSE file over the worker's NBD socket; no options."""

    name = "file"
    moves_in_use = True  # the kernel caches nothing of it

    def available(self) -> str | None:
        return fuse.lacking()

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        self.require()
        refuse_unknown(options, known=())
        return planned(uri, directory, read_only)

    def connect(self, details: Details) -> str | None:
        file = FuseFile(Path(details["directory"]))
        file.start(details["uri"], read_only=details["read_only"])
        return str(file.path)

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        FuseFile(Path(details["directory"])).stop(force=force)

    def alive(self, details: Details) -> bool:
        return FuseFile(Path(details["directory"])).alive

    def resized(self, details: Details, size: int) -> None:
        FuseFile(Path(details["directory"])).resized(size)


def planned(uri: str | None, directory: Path, read_only: bool) -> Details:
    """Give the details of a FUSE file; raises InvalidValue without a worker's URI."""
    if uri is None:
        raise InvalidValue("this access path needs the NBD URI of a worker")
    return {"directory": str(directory), "uri": uri, "read_only": read_only}


def refuse_unknown(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise InvalidValue for an option that is none of ``known``."""
    if unknown := sorted(set(options) - set(known)):
        expected = ", ".join(known) or "none"
        raise InvalidValue(f"unknown option of the access path: {', '.join(unknown)} (there are: {expected})")

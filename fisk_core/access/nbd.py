# SPDX-License-Identifier: Apache-2.0
"""NBD itself: the worker's URIs are all there is to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisk_core.access.base import AccessPath, Details
from fisk_core.model import Fisk


class Nbd(AccessPath):
    """Nothing to make, nothing to undo."""

    name = "nbd"
    moves_in_use = True

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        return {}

    def connect(self, details: Details) -> str | None:
        return None

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        pass

    def alive(self, details: Details) -> bool:
        return True

    def resized(self, details: Details, size: int) -> None:
        pass

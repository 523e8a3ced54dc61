# SPDX-License-Identifier: Apache-2.0
"""Serves ``nova.virt.fisk``: Nova takes compute drivers from its own package only."""

import importlib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ALIAS = "nova.virt.fisk"
TARGET = "fisk_openstack.nova_imagebackend.driver"


class Finder(MetaPathFinder):
    """Finds one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the spec of our module under Nova's name."""
        return ModuleSpec(ALIAS, _AliasLoader()) if fullname == ALIAS else None


class _AliasLoader(Loader):
    """Gives the driver's module itself, so that it exists once."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import ours."""
        return importlib.import_module(TARGET)

    def exec_module(self, module: ModuleType) -> None:
        """It has run already."""

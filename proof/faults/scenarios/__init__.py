# SPDX-License-Identifier: Apache-2.0
"""The plays: between them they reach every call site that is looked at."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import fisk_core
from proof.faults.sites import is_outside
from proof.faults.stage import Stage

Part = Callable[[Stage], None]


@dataclass(frozen=True)
class Scenario:
    """``prepare`` makes what is there before, once and without faults; ``play`` is what may fail."""

    name: str
    prepare: Part
    play: Part
    forks: bool = False
    """another process plays the part that fails (a worker)"""
    slow: bool = False
    """it starts programs"""


SCENARIOS: dict[str, Scenario] = {}
_MODULES = ("disks", "verbs", "recovery", "images", "keeping", "workers")


def scenario(name: str, prepare: Part, *, forks: bool = False, slow: bool = False) -> Callable[[Part], Part]:
    """File a function as the play of the scenario ``name``."""

    def add(play: Part) -> Part:
        SCENARIOS[name] = Scenario(name, prepare, play, forks, slow)
        return play

    return add


def load() -> dict[str, Scenario]:
    """Give all scenarios; loads all modules that they use.

    The loader of shared libraries reads files while it holds the interpreter's lock, which the supervisor of
    system calls needs to let it go on.
    """
    importlib.import_module("numpy")
    for found in pkgutil.walk_packages(fisk_core.__path__, "fisk_core."):
        name = found.name.partition(".")[2].replace(".", "/")
        if not is_outside(f"{name}/") and "migrations" not in name and not name.endswith("__main__"):
            importlib.import_module(found.name)
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return SCENARIOS

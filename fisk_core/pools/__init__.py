# SPDX-License-Identifier: Apache-2.0
"""Pools: where layers, logs and blobs persist, behind one small interface.

Drivers are found among the entry points ``fisk.pools``, so others add one without touching this tree.
A spec that already carries the class (``Pool.spec`` puts it there) is opened without that search:
workers start with it, and stay small.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from fisk_core.errors import InvalidValue, Unsupported
from fisk_core.pools.base import (
    BlobReader,
    Buffers,
    Capabilities,
    Device,
    Kind,
    Pool,
    Space,
    WritableBuffers,
)

__all__ = [
    "BlobReader",
    "Buffers",
    "Capabilities",
    "Device",
    "Kind",
    "Pool",
    "Space",
    "WritableBuffers",
    "create_pool",
    "open_pool",
]

ENTRY_POINTS = "fisk.pools"


def open_pool(spec: Mapping[str, Any]) -> Pool:
    """Open the pool ``spec`` describes: ``{"driver": …, "name": …, "options": {…}}``, optionally ``"class"``.

    Raises InvalidValue for an unknown driver, and what the driver's ``open`` raises.
    """
    try:
        driver, name, options = spec["driver"], spec["name"], spec["options"]
    except KeyError as exc:
        raise InvalidValue(f"the description of a pool lacks {exc}") from exc
    path = spec.get("class")
    return (_load(path) if path else _find(driver)).open(name, options)


def create_pool(driver: str, name: str, options: Mapping[str, Any]) -> Pool:
    """Make a new pool; raises InvalidValue for an unknown driver, and what the driver's ``create`` raises."""
    return _find(driver).create(name, options)


def _load(path: str) -> type[Pool]:
    """Give the class at ``module:Class``."""
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InvalidValue(f"cannot load the pool class {path!r}: {exc}") from exc
    return _checked(found, path)


def _find(driver: str) -> type[Pool]:
    """Give the class the entry point ``driver`` names."""
    # Imported here: it takes longer to load than all the rest of a worker.
    from stevedore.named import NamedExtensionManager

    manager: Any = NamedExtensionManager(
        ENTRY_POINTS,
        [driver],
        on_load_failure_callback=_cannot_load,
        on_missing_entrypoints_callback=_unknown,
    )
    return _checked(manager[driver].plugin, driver)


def _cannot_load(manager: object, entry_point: Any, exc: BaseException) -> None:
    raise Unsupported(f"the pool driver {entry_point.name!r} cannot be loaded here: {exc}") from exc


def _unknown(names: Iterable[str]) -> None:
    from importlib.metadata import entry_points

    known = ", ".join(sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)}))
    raise InvalidValue(f"there is no pool driver {', '.join(map(repr, names))} (known: {known})")


def _checked(found: object, what: str) -> type[Pool]:
    """Refuse what is no pool before anything of it runs."""
    if isinstance(found, type) and issubclass(found, Pool):
        return found
    raise InvalidValue(f"{what!r} is not a pool class")

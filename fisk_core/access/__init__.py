# SPDX-License-Identifier: Apache-2.0
"""Access paths: how a host reaches an attached Fisk (nbd, direct, file, block, iscsi).

Found among the entry points ``fisk.access``, so others add one without touching this tree.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fisk_core.access.base import AccessPath, Details
from fisk_core.errors import InvalidValue, Unsupported

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

__all__ = ["ENTRY_POINTS", "AccessPath", "Details", "access_path", "known"]

ENTRY_POINTS = "fisk.access"


def known() -> list[str]:
    """Give the names of all access paths that are installed."""
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def access_path(name: str, context: "Context") -> AccessPath:
    """Give the access path called ``name``; raises InvalidValue when there is none."""
    from stevedore.named import NamedExtensionManager

    manager: Any = NamedExtensionManager(
        ENTRY_POINTS,
        [name],
        on_load_failure_callback=_cannot_load,
        on_missing_entrypoints_callback=_unknown,
    )
    found = manager[name].plugin
    if not (isinstance(found, type) and issubclass(found, AccessPath)):
        raise InvalidValue(f"{name!r} is not an access path")
    return found(context)


def _cannot_load(manager: object, entry_point: Any, exc: BaseException) -> None:
    raise Unsupported(f"the access path {entry_point.name!r} cannot be loaded here: {exc}") from exc


def _unknown(names: Iterable[str]) -> None:
    raise InvalidValue(f"there is no access path {', '.join(map(repr, names))} (known: {', '.join(known())})")

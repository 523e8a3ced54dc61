# SPDX-License-Identifier: Apache-2.0
"""Operations that may have to begin again: the source moved under them, or a dead import holds their name."""

from collections.abc import Callable
from typing import TypeVar

from fisk_core.catalog.fisks import Conflict
from fisk_core.engine.context import Context
from fisk_core.errors import InUse
from fisk_core.services import sweep

T = TypeVar("T")

_ATTEMPTS = 10


class Moved(InUse):
    """What an operation had read is no longer so: another process was faster."""


def retrying(context: Context, attempt: Callable[[], T]) -> T:
    """Give the result of ``attempt``, called again while it makes sense."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except Moved:
            continue
        except Conflict as exc:
            if not sweep.sweep_buildings(context, exc.building):
                raise
    return attempt()

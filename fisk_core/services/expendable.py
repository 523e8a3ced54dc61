# SPDX-License-Identifier: Apache-2.0
"""Makes room in a pool that runs full: removes snapshots that were declared expendable.

Above the high-water mark they go one after the other, the oldest of the pool first, until it is below the
low-water mark or none is left.  Only frozen Fisks of role ``snapshot`` with the attribute ``expendable =
true`` ever go: no clone, no volume, no image, no snapshot somebody wants to keep.

After each the collector runs, for a snapshot shares most of its layers with others: what only it pointed to
is found block by block.  So no more of them go than are needed.
"""

import logging
from typing import TYPE_CHECKING

from fisk_core.catalog import events as event_rows
from fisk_core.catalog import schedules as rows
from fisk_core.catalog.schedules import Labelled
from fisk_core.errors import InUse
from fisk_core.services import events
from fisk_core.services.schedules import EXPENDABLE, remove

if TYPE_CHECKING:
    from fisk_core.engine import Engine

LOG = logging.getLogger(__name__)

FULL, RELIEVED = "pool.nearly_full", "pool.relieved"
_LOOK_BACK = 1000


def used_percent(engine: "Engine", pool: str) -> float:
    """Give how much of the pool's medium is not free."""
    space = engine.open_pool(pool).space()
    return 100.0 * (1.0 - space.free / space.total) if space.total else 0.0


def relieve(engine: "Engine", pool: str, high: float = 90.0, low: float = 85.0) -> list[str]:
    """Look at one pool, tell of it, and make room where that is due; gives the names of what was removed."""
    used = used_percent(engine, pool)
    if used < high:
        if used < low:
            _tell(engine, pool, RELIEVED, used)
        return []
    _tell(engine, pool, FULL, used)
    gone: list[str] = []
    for fisk in _expendable(engine, pool):
        removed = remove(engine, [fisk])
        if not removed:
            continue
        gone += removed
        LOG.info("pool %s is %.1f %% full: removed expendable snapshot %s", pool, used, fisk.name)
        _collect(engine)
        used = used_percent(engine, pool)
        if used < low:
            _tell(engine, pool, RELIEVED, used, removed=gone)
            break
    return gone


def _expendable(engine: "Engine", pool: str) -> list[Labelled]:
    """Give what may go, oldest first."""
    with engine.catalog.read() as conn:
        return rows.labelled(conn, EXPENDABLE, "true", pool=pool)


def _collect(engine: "Engine") -> None:
    engine.settle()  # the maps above the one that is gone must not need it any more
    try:
        engine.collect()
    except InUse:
        LOG.info("another collector is at work already")


def _tell(engine: "Engine", pool: str, kind: str, used: float, removed: list[str] | None = None) -> None:
    """Note that the pool is in another condition than it was said to be in last; once for all hosts."""
    if _last(engine, pool) == kind:
        return
    with engine.catalog.change() as conn:
        # Looked at again where nobody else can be between the look and the event.
        last = event_rows.newest_of(conn, (FULL, RELIEVED), _LOOK_BACK)
        if next((event.kind for event in last if event.data.get("pool") == pool), RELIEVED) == kind:
            return
        events.emit(conn, kind, pool=pool, used_percent=round(used, 1), removed=removed or [])


def _last(engine: "Engine", pool: str) -> str:
    """Give the condition that was told of last: relieved when nothing ever was."""
    with engine.catalog.read() as conn:
        last = event_rows.newest_of(conn, (FULL, RELIEVED), _LOOK_BACK)
    return next((event.kind for event in last if event.data.get("pool") == pool), RELIEVED)

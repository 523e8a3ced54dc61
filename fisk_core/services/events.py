# SPDX-License-Identifier: Apache-2.0
"""Events: what happened, in the order in which it did, for those who follow it.

``emit`` writes into the transaction of the change itself, so an event is there exactly when its change is,
and numbers rise in the order of the changes: all changes of a catalog have one order.  A change of many
Fisks is told by few events, each with ``fisk_id`` None and up to 500 ids in ``data["ids"]``.

Events are kept 7 days, and the newest 100 000.  Who comes back later has missed the others and reads anew.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from fisk_core.catalog import events as rows
from fisk_core.catalog.fisks import CHUNK
from fisk_core.model import Event

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

KINDS = (
    "fisk.created",
    "fisk.frozen",
    "fisk.changed",
    "fisk.deleted",
    "fisk.resized",
    "fisk.reverted",
    "fisk.moved",
    "fisk.attached",
    "fisk.detached",
    "worker.restarted",
    "worker.fenced",
    "job.queued",
    "job.progress",
    "job.done",
    "job.failed",
    "job.cancelled",
    "pool.nearly_full",
    "pool.relieved",
    "schedule.missed",
)
KEPT = 100_000
KEPT_DAYS = 7
POLL_SECONDS = 1.0
"""How long another process's events may take to be seen; this one's are seen at once."""
_SLACK = 1000
_SLACK_TIME = timedelta(hours=1)
"""How much more than is kept may be there before it is worth a transaction."""


def emit(conn: Connection, kind: str, /, fisk_id: str | None = None, **data: Any) -> None:
    """Note an event in the transaction of what it tells; ``data`` is plain JSON."""
    rows.add(conn, [(kind, fisk_id, data)])


def emit_many(conn: Connection, kind: str, ids: Sequence[str], **data: Any) -> None:
    """Note the same of several Fisks, in one statement and few rows."""
    if len(ids) == 1:
        emit(conn, kind, ids[0], **data)
        return
    parts = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    rows.add(conn, [(kind, None, {**data, "ids": list(part)}) for part in parts])


def read(context: "Context", after: int, most: int = 500) -> list[Event]:
    """Give the first ``most`` events after number ``after``, oldest first."""
    with context.catalog.read() as conn:
        return rows.after(conn, after, most)


def latest(context: "Context") -> int:
    """Give the number of the last event, 0 when there is none."""
    with context.catalog.read() as conn:
        return rows.ends(conn)[1]


def follow(
    context: "Context", after: int | None = None, stop: threading.Event | None = None
) -> Iterator[Event]:
    """Give every event after number ``after`` (None: from now on), waiting for more until ``stop`` is set.

    Blocks the calling thread; ``stop`` is noticed within a second, or at the next change.
    """
    changes = context.catalog.changes
    last = latest(context) if after is None else after
    while not (stop is not None and stop.is_set()):
        seen = changes.count  # before reading: what comes meanwhile ends the wait below
        found = read(context, last)
        for event in found:
            yield event
            last = event.num
        if not found:
            changes.wait(seen, POLL_SECONDS)


def trim(context: "Context") -> None:
    """Remove what is not kept any more; most times a look that changes nothing."""
    limit = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=KEPT_DAYS)
    with context.catalog.read() as conn:
        first, last, earliest = rows.ends(conn)
    if earliest is None or (last - first < KEPT + _SLACK and earliest > limit - _SLACK_TIME):
        return
    with context.catalog.change() as conn:
        rows.trim(conn, last - KEPT, limit)

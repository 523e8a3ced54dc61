# SPDX-License-Identifier: Apache-2.0
"""Statements on events."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from fisk_core.catalog.schema import events
from fisk_core.model import Event

_INSERT = insert(events)
_AFTER = (
    select(events.c.num, events.c.kind, events.c.at, events.c.fisk_id, events.c.data)
    .where(events.c.num > bindparam("num"))
    .order_by(events.c.num)
    .limit(bindparam("most"))
)
_ENDS = select(func.min(events.c.num), func.max(events.c.num), func.min(events.c.at))


def add(conn: Connection, rows: Sequence[tuple[str, str | None, Mapping[str, Any]]]) -> None:
    """Note what happened, as (kind, Fisk or None, data)."""
    now = datetime.now(UTC).replace(tzinfo=None)
    values = [{"kind": kind, "fisk_id": fisk, "data": dict(data), "at": now} for kind, fisk, data in rows]
    conn.execute(_INSERT, values)


def after(conn: Connection, num: int, most: int) -> list[Event]:
    """Give the first ``most`` events with a higher number than ``num``, oldest first."""
    return [_event(*row) for row in conn.execute(_AFTER, {"num": num, "most": most})]


def newest_of(conn: Connection, kinds: Sequence[str], most: int) -> list[Event]:
    """Give the last ``most`` events of some kinds, newest first."""
    query = (
        select(events.c.num, events.c.kind, events.c.at, events.c.fisk_id, events.c.data)
        .where(events.c.kind.in_(kinds))
        .order_by(events.c.num.desc())
        .limit(most)
    )
    return [_event(*row) for row in conn.execute(query)]


def ends(conn: Connection) -> tuple[int, int, datetime | None]:
    """Give the lowest and the highest number there is (0 where there is none), and the earliest time."""
    first, last, at = conn.execute(_ENDS).one()
    return first or 0, last or 0, at


def trim(conn: Connection, up_to: int, before: datetime) -> None:
    """Remove events numbered ``up_to`` or less, and those from before a time (UTC, without a zone)."""
    conn.execute(delete(events).where((events.c.num <= up_to) | (events.c.at < before)))


def _event(num: int, kind: str, at: datetime, fisk_id: str | None, data: Mapping[str, Any]) -> Event:
    return Event(num=num, kind=kind, at=at.replace(tzinfo=UTC), fisk_id=fisk_id, data=data)

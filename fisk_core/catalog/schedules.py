# SPDX-License-Identifier: Apache-2.0
"""Statements on schedules."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from fisk_core.catalog.schema import attributes, fisks, pools, schedules
from fisk_core.errors import NotFound
from fisk_core.model import Retention, Role, Schedule, State


class Labelled(NamedTuple):
    """A frozen Fisk of role snapshot that has the attribute that was asked for, with its value."""

    id: str
    name: str
    created_at: datetime
    value: str


def add(conn: Connection, schedule: Schedule) -> None:
    values = columns(schedule)
    conn.execute(insert(schedules).values(id=schedule.id, fisk_id=schedule.fisk_id, **values))


def replace(conn: Connection, schedule: Schedule) -> None:
    conn.execute(update(schedules).where(schedules.c.id == schedule.id).values(**columns(schedule)))


def columns(schedule: Schedule) -> dict[str, Any]:
    """Give what can change of a schedule, as columns."""
    kept = schedule.retention
    return {
        "interval": schedule.interval,
        "prefix": schedule.prefix,
        "keep_last": kept.last,
        "keep_hourly": kept.hourly,
        "keep_daily": kept.daily,
        "keep_weekly": kept.weekly,
        "expire": schedule.expire,
        "expendable": schedule.expendable,
        "enabled": schedule.enabled,
        "next_run": schedule.next_run.astimezone(UTC).replace(tzinfo=None),
        "created_at": schedule.created_at.astimezone(UTC).replace(tzinfo=None),
    }


def try_find(conn: Connection, schedule_id: str) -> Schedule | None:
    row = conn.execute(select(schedules).where(schedules.c.id == schedule_id)).first()
    return _schedule(row) if row is not None else None


def find(conn: Connection, schedule_id: str) -> Schedule:
    """Give one schedule; raises NotFound."""
    found = try_find(conn, schedule_id)
    if found is None:
        raise NotFound(f"there is no schedule {schedule_id}")
    return found


def every(conn: Connection, fisk_id: str | None = None) -> list[Schedule]:
    """Give the schedules of a Fisk, or all, oldest first."""
    query = select(schedules).order_by(schedules.c.created_at, schedules.c.id)
    if fisk_id is not None:
        query = query.where(schedules.c.fisk_id == fisk_id)
    return [_schedule(row) for row in conn.execute(query)]


def due(conn: Connection, now: datetime) -> list[Schedule]:
    """Give the enabled schedules whose next run is not later than ``now``."""
    query = select(schedules).where(schedules.c.enabled.is_(True), schedules.c.next_run <= now)
    return [_schedule(row) for row in conn.execute(query.order_by(schedules.c.next_run))]


def next_run(conn: Connection, after: datetime) -> datetime | None:
    """Give the time of the first run of all that is later than ``after``, UTC without a zone."""
    query = select(func.min(schedules.c.next_run))
    query = query.where(schedules.c.enabled.is_(True), schedules.c.next_run > after)
    found: datetime | None = conn.execute(query).scalar_one()
    return found


def move_on(conn: Connection, schedule: Schedule, at: datetime) -> bool:
    """Set the next run if it is still that of ``schedule``; says whether it was."""
    mine = columns(schedule)["next_run"]
    query = update(schedules).where(schedules.c.id == schedule.id, schedules.c.next_run == mine)
    return conn.execute(query.values(next_run=at.astimezone(UTC).replace(tzinfo=None))).rowcount > 0


def remove(conn: Connection, schedule_id: str) -> None:
    conn.execute(delete(schedules).where(schedules.c.id == schedule_id))


def labelled(
    conn: Connection, key: str, value: str | None = None, *, pool: str | None = None
) -> list[Labelled]:
    """Give the snapshots with an attribute (of this value), oldest first; times are UTC without a zone."""
    query = (
        select(fisks.c.id, fisks.c.name, fisks.c.created_at, attributes.c.value)
        .join(attributes, attributes.c.fisk_id == fisks.c.id)
        .where(attributes.c.key == key)
        .where(fisks.c.role == Role.SNAPSHOT.value, fisks.c.state == State.FROZEN.value)
        .order_by(fisks.c.created_at, fisks.c.name)
    )
    if value is not None:
        query = query.where(attributes.c.value == value)
    if pool is not None:
        query = query.join(pools, pools.c.id == fisks.c.pool_id).where(pools.c.name == pool)
    return [Labelled._make(row) for row in conn.execute(query)]


def _schedule(row: Any) -> Schedule:
    return Schedule(
        id=row.id,
        fisk_id=row.fisk_id,
        interval=row.interval,
        retention=Retention(row.keep_last, row.keep_hourly, row.keep_daily, row.keep_weekly),
        next_run=row.next_run.replace(tzinfo=UTC),
        created_at=row.created_at.replace(tzinfo=UTC),
        prefix=row.prefix,
        expire=row.expire,
        expendable=row.expendable,
        enabled=row.enabled,
    )

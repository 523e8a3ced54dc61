# SPDX-License-Identifier: Apache-2.0
"""Statements on range locks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fisk_core.catalog.schema import range_locks as locks
from fisk_core.model import RangeLock

_COLUMNS = (
    locks.c.id,
    locks.c.fisk_id,
    locks.c.offset,
    locks.c.length,
    locks.c.shared,
    locks.c.owner,
    locks.c.expires,
    locks.c.waiting,
    locks.c.ticket,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A lock, or while ``waiting`` the wish for one; ``ticket`` is its place in the queue."""

    lock: RangeLock
    waiting: bool
    ticket: int

    def overlaps(self, offset: int, length: int) -> bool:
        return self.lock.offset < offset + length and offset < self.lock.offset + self.lock.length


def of(conn: Connection, fisk_id: str, now: datetime) -> list[Claim]:
    """Give a Fisk's locks and wishes that have not expired at ``now``, in the order of their tickets."""
    query = select(*_COLUMNS).where(locks.c.fisk_id == fisk_id, locks.c.expires > now)
    return [_claim(row) for row in conn.execute(query.order_by(locks.c.ticket))]


def try_find(conn: Connection, lock_id: str) -> Claim | None:
    row = conn.execute(select(*_COLUMNS).where(locks.c.id == lock_id)).first()
    return _claim(row) if row is not None else None


def count(conn: Connection, fisk_id: str) -> int:
    return int(conn.execute(select(func.count()).where(locks.c.fisk_id == fisk_id)).scalar_one())


def add(conn: Connection, lock: RangeLock, *, waiting: bool, ticket: int) -> None:
    row = {"id": lock.id, "fisk_id": lock.fisk_id, "offset": lock.offset, "length": lock.length}
    rest = {"shared": lock.shared, "owner": lock.owner, "waiting": waiting, "ticket": ticket}
    conn.execute(insert(locks).values(**row, **rest, expires=lock.expires.replace(tzinfo=None)))


def change(conn: Connection, lock_id: str, **values: Any) -> None:
    conn.execute(update(locks).where(locks.c.id == lock_id).values(**values))


def remove(conn: Connection, lock_id: str) -> None:
    conn.execute(delete(locks).where(locks.c.id == lock_id))


def withdraw(conn: Connection, lock_id: str) -> None:
    """Remove a request, unless it was granted meanwhile."""
    conn.execute(delete(locks).where(locks.c.id == lock_id, locks.c.waiting.is_(True)))


def remove_expired(conn: Connection, fisk_id: str, now: datetime) -> None:
    conn.execute(delete(locks).where(locks.c.fisk_id == fisk_id, locks.c.expires <= now))


def _claim(row: Any) -> Claim:
    lock = RangeLock(
        id=row.id,
        fisk_id=row.fisk_id,
        offset=row.offset,
        length=row.length,
        shared=row.shared,
        owner=row.owner,
        expires=row.expires.replace(tzinfo=UTC),
    )
    return Claim(lock, row.waiting, row.ticket)

# SPDX-License-Identifier: Apache-2.0
"""Statements on attachments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from fisk_core.catalog.fisks import CHUNK
from fisk_core.catalog.schema import attachments


@dataclass(frozen=True, slots=True)
class AttachmentRow:
    """A row; ``details`` is the supervisor's."""

    id: str
    fisk_id: str
    host: str
    access: str
    read_only: bool
    epoch: int
    consumer: str
    details: Mapping[str, Any]
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(tzinfo=None))


_COLUMNS = (
    attachments.c.id,
    attachments.c.fisk_id,
    attachments.c.host,
    attachments.c.access,
    attachments.c.read_only,
    attachments.c.epoch,
    attachments.c.consumer,
    attachments.c.details,
    attachments.c.created_at,
)


def add(conn: Connection, row: AttachmentRow) -> None:
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    conn.execute(insert(attachments).values({**values, "details": dict(row.details)}))


def try_find(conn: Connection, attachment_id: str) -> AttachmentRow | None:
    row = conn.execute(select(*_COLUMNS).where(attachments.c.id == attachment_id)).first()
    return AttachmentRow(*row) if row is not None else None


def every(conn: Connection, *, fisk_id: str | None = None, host: str | None = None) -> list[AttachmentRow]:
    """Give the rows that match everything given, oldest first."""
    query = select(*_COLUMNS).order_by(attachments.c.created_at, attachments.c.id)
    if fisk_id is not None:
        query = query.where(attachments.c.fisk_id == fisk_id)
    if host is not None:
        query = query.where(attachments.c.host == host)
    return [AttachmentRow(*row) for row in conn.execute(query)]


def fisk_ids(conn: Connection, host: str) -> set[str]:
    """Give the Fisks that are attached on a host."""
    return set(conn.execute(select(attachments.c.fisk_id).where(attachments.c.host == host)).scalars())


def hosts(conn: Connection, fisk_ids: Sequence[str]) -> dict[str, str]:
    """Give a host for each of the Fisks that is attached somewhere."""
    found: dict[str, str] = {}
    for start in range(0, len(fisk_ids), CHUNK):
        part = attachments.c.fisk_id.in_(fisk_ids[start : start + CHUNK])
        found.update((row[0], row[1]) for row in conn.execute(_HOSTS.where(part)))
    return found


_HOSTS = select(attachments.c.fisk_id, attachments.c.host)


def change(conn: Connection, attachment_id: str, **values: Any) -> None:
    """Set ``details`` or ``epoch``."""
    conn.execute(update(attachments).where(attachments.c.id == attachment_id).values(**values))


def set_epoch(conn: Connection, fisk_id: str, host: str, epoch: int) -> None:
    """Give a host's writing attachments of a Fisk the epoch of the lease they share from now on."""
    mine = (attachments.c.fisk_id == fisk_id, attachments.c.host == host, attachments.c.read_only.is_(False))
    conn.execute(update(attachments).where(*mine).values(epoch=epoch))


def remove(conn: Connection, attachment_id: str) -> bool:
    """Forget one; says whether there was such."""
    return bool(conn.execute(delete(attachments).where(attachments.c.id == attachment_id)).rowcount)

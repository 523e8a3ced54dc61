# SPDX-License-Identifier: Apache-2.0
"""Statements on leases."""

from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from fisk_core.catalog.schema import leases


class Lease(NamedTuple):
    """The last writer of a Fisk: ``host:pid`` of the process that opened it, and its epoch."""

    holder: str
    epoch: int

    @property
    def host(self) -> str:
        return self.holder.rpartition(":")[0]


def find(conn: Connection, fisk_id: str) -> Lease | None:
    """Give the lease of the last writer, None when there was none."""
    row = conn.execute(select(leases.c.holder, leases.c.epoch).where(leases.c.fisk_id == fisk_id)).first()
    return Lease(*row) if row is not None else None


def take(conn: Connection, fisk_id: str, holder: str) -> int:
    """Note a new writer; gives its epoch, one more than that of any writer before."""
    mine = leases.c.fisk_id == fisk_id
    changed = conn.execute(update(leases).where(mine).values(holder=holder, epoch=leases.c.epoch + 1))
    if not changed.rowcount:
        conn.execute(insert(leases).values(fisk_id=fisk_id, holder=holder, epoch=1, expires=None))
    return epoch(conn, fisk_id)


def restore(conn: Connection, fisk_id: str, epoch: int) -> None:
    """Set the epoch of a Fisk whose history was lost, so that the next writer's is above it."""
    conn.execute(insert(leases).values(fisk_id=fisk_id, holder="unknown", epoch=epoch, expires=None))


def epoch(conn: Connection, fisk_id: str) -> int:
    """Give the epoch of the last writer, 0 when there was none."""
    return int(conn.execute(select(leases.c.epoch).where(leases.c.fisk_id == fisk_id)).scalar() or 0)

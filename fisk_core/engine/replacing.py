# SPDX-License-Identifier: Apache-2.0
"""Gives a served Fisk another map: revert, shrink, and the last step of moving it to another pool.

Unlike a snapshot, the new period does not see (all of) the old one, so it matters which of the two a client
wrote to.  Order:

1. files of the new period, durable;
2. transaction: ``next_map`` is the new period, ``map_id`` still the old;
3. the worker is told to switch;
4. transaction: ``map_id`` is the new period, the old one goes where nobody needs it.

A crash of this process between 2 and 4 leaves ``next_map`` set, and ``decide`` finds out what is true: a
worker that lives is asked which map it writes.  If it is gone, the new log tells: with changes in it the
worker had switched and writes were flushed there, so the new map counts.  Without, it either had not
switched, or nothing was flushed since, and the old map counts.  Flushed writes are in the map that counts
either way.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from fisk_core.blockmap import create_log
from fisk_core.blockmap.log import read as read_log
from fisk_core.catalog import Record, fisks, maps
from fisk_core.catalog.maps import MapRow
from fisk_core.engine import access
from fisk_core.engine.context import Context
from fisk_core.errors import FiskError
from fisk_core.pools.base import Kind
from fisk_core.services import events, sweep


def replace_served(
    context: Context, record: Record, row: dict[str, Any], also: Callable[[Connection], None] | None = None
) -> None:
    """Have the Fisk's worker continue in the period of ``row``, whose ``base_size`` becomes the Fisk's size.

    ``also`` is done in the transaction that names the period first.
    """
    with context.making():
        header = access.header_of(record, row["id"], row["base"], row["base_size"])
        create_log(context.open_pool(record.pool), header)
        with context.catalog.change() as conn:
            if also is not None:
                also(conn)
            maps.insert_maps(conn, [row])
            maps.mark_opened(conn, row["id"], row["pool_id"])
            fisks.update_fisk(conn, record.id, next_map=row["id"])
    try:
        access.tell_to_switch(context, _as_next(record, row["id"], row["base"], row["base_size"]))
    except FiskError:
        decide(context, context.find(record.id))
        raise
    forward(context, record, row["id"], row["base"], row["base_size"])


def _as_next(record: Record, map_id: str, base: str | None, base_size: int) -> Record:
    """Give the row as it will be."""
    return record._replace(map_id=map_id, size=base_size, opened=True, base_id=base, base_size=base_size)


def decide(context: Context, record: Record) -> None:
    """Find out whether the Fisk continues in ``next_map``; the caller holds the operation lock."""
    assert record.next_map is not None
    with context.catalog.read() as conn:
        following = maps.find(conn, record.next_map)
    if _has_switched(context, record, following):
        forward(context, record, following.id, following.base, following.base_size)
        return
    with context.catalog.change() as conn:
        fisks.update_fisk(conn, record.id, next_map=None)
        garbage = maps.drop_unneeded(conn, [following.id])
    sweep.remove(context, garbage)


def _has_switched(context: Context, record: Record, following: MapRow) -> bool:
    lock = access.seize(context, record, shared=True)
    if lock is None:
        return bool(access.worker_status(context, record)["map_id"] == following.id)
    pool = context.open_pool(following.pool)
    with lock, pool.open_device(Kind.LOG, following.id, writable=False) as log:
        return read_log(log, following.id).sequence > 0


def forward(context: Context, record: Record, map_id: str, base: str | None, size: int) -> None:
    """The Fisk continues in ``map_id``, which its worker writes (transaction B)."""
    with context.catalog.change() as conn:
        now = maps.find(conn, map_id)
        moved = now.pool_id != record.pool_id
        fisks.update_fisk(conn, record.id, map_id=map_id, next_map=None, size=size)
        if base == record.map_id:
            # Shrunk: what lay behind the new end is seen by nobody any more.
            maps.mark_sealed(conn, record.map_id, size)
            maps.mark_suspect(conn, record.map_id)
        if moved:
            fisks.update_fisk(conn, record.id, pool_id=now.pool_id, published=0)
            events.emit(conn, "fisk.moved", record.id, pool=now.pool)
        else:
            kind = "fisk.resized" if base == record.map_id else "fisk.reverted"
            events.emit(conn, kind, record.id, size=size)
        garbage = maps.drop_unneeded(conn, [record.map_id])
    if moved:
        garbage.fisks.append((record.pool, record.id))
    sweep.remove(context, garbage)
    context.settler.notify()

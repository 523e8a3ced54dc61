# SPDX-License-Identifier: Apache-2.0
"""Turns sealed periods into blobs, and publishes the headers of Fisks; nothing here is urgent.

For each sealed map without a blob, oldest first:

1. data checksums of its layer, where the pool keeps them and the layer has none, and then its blob are
   written, durably;
2. transaction: the map has a blob and names the blob's layers; its base goes where nobody else needs it;
3. its log is removed, and the layers that no map names any more.

A crash between 1 and 2 leaves a blob that says the same as base and log; it is written again.  A crash
between 2 and 3 leaves files without a row, which are swept.  Several processes may do it at once: step 2
looks again, and if the map was deleted meanwhile the blob is removed.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.blockmap import consolidate
from fisk_core.blockmap.sums import wanted
from fisk_core.catalog import Record, fisks, maps
from fisk_core.catalog.database import version
from fisk_core.catalog.maps import Garbage, MapRow
from fisk_core.errors import FiskError, NotFound
from fisk_core.pools.base import Kind
from fisk_core.services import headers, sums, sweep

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)

_TURN_SECONDS = 600


def settle(context: "Context") -> None:
    """Do all there is; what fails is logged and left for the next time."""
    with locks.acquire(context.home.lock_path / "settle.lock", timeout=_TURN_SECONDS):
        with context.catalog.read() as conn:
            waiting = maps.unsettled(conn)
        for row in waiting:
            try:
                settle_map(context, row)
            except FiskError as exc:
                LOG.warning("the map %s stays without a blob: %s", row.id, exc)
        with context.catalog.read() as conn:
            stale = fisks.unpublished(conn)
        publish(context, stale)


def settle_map(context: "Context", row: MapRow) -> None:
    """Give one sealed map its blob."""
    pool = context.open_pool(row.pool)
    assert row.size is not None
    try:
        if wanted(pool) and pool.exists(Kind.LAYER, row.id):
            sums.record(pool, row.id, row.size)
        named = consolidate(pool, row.id, row.size)
    except NotFound:
        if _is_settled(context, row):
            return
        raise
    with context.catalog.change() as conn:
        garbage = _name_blob(conn, row, named)
    sweep.remove(context, garbage)


def _is_settled(context: "Context", row: MapRow) -> bool:
    """Whether another process was faster, or the map is gone."""
    with context.catalog.read() as conn:
        try:
            return maps.find(conn, row.id).has_blob
        except NotFound:
            return True


def _name_blob(conn: Connection, row: MapRow, named: set[str]) -> Garbage:
    try:
        now = maps.find(conn, row.id)
    except NotFound:
        return Garbage(maps=[(row.pool, row.id)])
    return Garbage() if now.has_blob else maps.set_blob(conn, now, named)


def publish(context: "Context", stale: Sequence[Record]) -> None:
    """Write the headers of Fisks into their pools, durably, and note which revision is there."""
    written: list[Record] = []
    for pool in sorted({record.pool for record in stale}):
        records = [record for record in stale if record.pool == pool]
        try:
            # First what was removed is gone for good: a log that came back after a power loss would be taken
            # for newer than the header by a rescan of a lost catalog, and undo a revert.
            context.open_pool(pool).sync_names()
            context.open_pool(pool).put_blobs(_headers(context, records))
        except FiskError as exc:
            LOG.warning("the headers of %d Fisks could not be written: %s", len(records), exc)
        else:
            written += records
    if not written:
        return
    with context.catalog.change() as conn:
        gone = fisks.mark_published(conn, written)
    sweep.remove(context, Garbage(fisks=[(record.pool, record.id) for record in stale if record.id in gone]))


def _headers(context: "Context", records: Sequence[Record]) -> dict[str, bytes]:
    with context.catalog.read() as conn:
        now = version(conn)
        labels = {record.id: fisks.attributes_of(conn, record.id) for record in records}
    return {
        headers.name_of(record.id): headers.encode(headers.header_of(record, labels[record.id], now))
        for record in records
    }

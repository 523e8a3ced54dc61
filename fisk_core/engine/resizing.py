# SPDX-License-Identifier: Apache-2.0
"""Resizing: growing is a number in the catalog; shrinking begins a period that sees less of the one before.

So what lay behind the new end reads as zeros when the Fisk grows again, whatever happened in between.  If
the new end is inside a block, the rest of that block is zeroed in the new period, durably, before the
transaction that points the Fisk to it.
"""

from dataclasses import replace
from typing import Any

from fisk_core.blockmap import create_log, seal
from fisk_core.catalog import Record, fisks, maps
from fisk_core.dataplane.disk import Disk
from fisk_core.engine import access, validate
from fisk_core.engine.context import Context
from fisk_core.engine.freezing import new_period
from fisk_core.engine.operating import operating
from fisk_core.engine.replacing import replace_served
from fisk_core.errors import InUse, InvalidValue, ReadOnly
from fisk_core.model import Fisk
from fisk_core.services import events


def resize(context: Context, ref: str, size: int, *, shrink: bool = False) -> Fisk:
    """Set the size in bytes.  A smaller one needs ``shrink``: what lies behind it is lost.

    Raises InvalidValue, LimitExceeded, ReadOnly for a frozen Fisk, InUse.
    """
    validate.size(size)
    with operating(context, ref) as (record,):
        if record.frozen:
            raise ReadOnly(f"Fisk '{record.name}' is frozen; clone it to another size")
        if size < record.size and not shrink:
            raise InvalidValue(
                f"'{record.name}' has {record.size} bytes; making it smaller loses data and must be asked for"
            )
        validate.fits(size, context.open_pool(record.pool))
        (_shrink if size < record.size else _grow)(context, record, size)
    context.settler.notify()
    with context.catalog.read() as conn:
        return fisks.load(conn, record.id)


def _grow(context: Context, record: Record, size: int) -> None:
    lock = access.seize(context, record, shared=True)
    try:
        if size != record.size:
            _set_size(context, record, size)
        if lock is None:
            access.call(context, record, {"op": "resize", "size": size})
    finally:
        if lock is not None:
            lock.release()


def _set_size(context: Context, record: Record, size: int) -> None:
    with context.catalog.change() as conn:
        fisks.update_fisk(conn, record.id, size=size)
        events.emit(conn, "fisk.resized", record.id, size=size)


def _shrink(context: Context, record: Record, size: int) -> None:
    lock = access.seize(context, record, shared=False)
    if lock is None:
        _shrink_served(context, record, size)
        return
    with lock:
        if record.readable_map is None:
            _set_size(context, record, size)
            return
        if record.opened:
            seal(context.open_pool(record.pool), record.map_id)
        _shrink_unused(context, record, new_period(record, record.readable_map, size))


def _shrink_unused(context: Context, record: Record, row: dict[str, Any]) -> None:
    """Crash windows: files of the new period nobody names (swept), then all of it done."""
    size = row["base_size"]
    with context.making():
        header = access.header_of(record, row["id"], row["base"], size)
        create_log(context.open_pool(record.pool), header)
        _zero_behind(context, record, row)
        with context.catalog.change() as conn:
            if record.opened:
                maps.mark_sealed(conn, record.map_id, size)
                maps.mark_suspect(conn, record.map_id)
            maps.begin_period(conn, record, row)
            maps.mark_opened(conn, row["id"], row["pool_id"])
            fisks.update_fisk(conn, record.id, size=size)
            events.emit(conn, "fisk.resized", record.id, size=size)
            maps.drop_unneeded(conn, [record.map_id])


def _zero_behind(context: Context, record: Record, row: dict[str, Any]) -> None:
    """Zero the part of the last block that lies behind the new end."""
    size = row["base_size"]
    rest = -size % record.block_size
    if not rest:
        return
    following = record._replace(map_id=row["id"], size=size, opened=True)
    spec = replace(access.spec_of(context, following, read_only=False), size=size + rest, journal=None)
    with Disk.open(context.open_pool(record.pool), spec) as disk:
        disk.write_zeroes(size, rest)


def _shrink_served(context: Context, record: Record, size: int) -> None:
    if size % record.block_size:
        raise InUse(
            f"Fisk '{record.name}' is served: it can only shrink by blocks of {record.block_size} bytes"
        )
    replace_served(context, record, new_period(record, record.map_id, size))

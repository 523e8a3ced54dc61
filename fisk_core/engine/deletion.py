# SPDX-License-Identifier: Apache-2.0
"""Deletion: any Fisk, at any time, whatever was made from it.

One transaction forgets the Fisks, the maps that nobody needs then and the layers that no map names then.  The
files go after it is committed; what a crash leaves of them has no row and is swept.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from fisk_core import locks
from fisk_core.catalog import Record, attachments, fisks, maps
from fisk_core.catalog.maps import Garbage
from fisk_core.engine import access
from fisk_core.engine.context import Context
from fisk_core.engine.operating import OPERATION_SECONDS
from fisk_core.errors import InUse
from fisk_core.services import events, sweep

_AT_ONCE = 200
"""Fisks deleted in one transaction: each needs two open lock files meanwhile."""


def delete(context: Context, refs: Sequence[str], *, force: bool = False) -> None:
    """Delete the Fisks, up to 200 of them all or none.

    Raises NotFound, and InUse while a process uses one of them; ``force`` stops its worker.
    """
    ids = sorted({context.find(ref).id for ref in refs})
    for start in range(0, len(ids), _AT_ONCE):
        _delete(context, ids[start : start + _AT_ONCE], force)


def _delete(context: Context, ids: Sequence[str], force: bool) -> None:
    with ExitStack() as stack:
        held = [_operation_lock(context, stack, fisk_id) for fisk_id in ids]
        records = [context.find(fisk_id) for fisk_id in ids]
        if not force:
            _require_detached(context, records)
        for record in records:
            held.append(access.exclude(context, record, force=force))
            stack.enter_context(held[-1])
        with context.catalog.change() as conn:
            fisks.delete_fisks(conn, ids)
            events.emit_many(conn, "fisk.deleted", ids, names=[record.name for record in records])
            pointed = [each for record in records for each in (record.map_id, record.next_map) if each]
            garbage = maps.drop_unneeded(conn, pointed)
        _clean_up(context, records, garbage, held)


def _require_detached(context: Context, records: Sequence[Record]) -> None:
    """Raise InUse for a Fisk that is attached, whether its worker runs at this moment or not."""
    with context.catalog.read() as conn:
        hosts = attachments.hosts(conn, [record.id for record in records])
    for record in records:
        if record.id in hosts:
            raise InUse(f"Fisk '{record.name}' is attached on {hosts[record.id]}; detach it, or force")


def _operation_lock(context: Context, stack: ExitStack, fisk_id: str) -> locks.Lock:
    path = context.home.operation(fisk_id)
    return stack.enter_context(locks.acquire(path, timeout=OPERATION_SECONDS))


def _clean_up(
    context: Context, records: Sequence[Record], garbage: Garbage, held: Sequence[locks.Lock]
) -> None:
    garbage.fisks += [(record.pool, record.id) for record in records]
    sweep.remove(context, garbage)
    for record in records:
        sweep.tidy(partial(access.forget_files, context, [record.id]))
    for lock in held:
        sweep.tidy(lock.remove)

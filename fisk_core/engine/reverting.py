# SPDX-License-Identifier: Apache-2.0
"""Revert: a live Fisk takes the content of another, usually an earlier snapshot of it.

Nobody using the Fisk: one transaction, the new period has no files yet and the old one is gone.  Served: see
``replacing``.  The other Fisk stays as it is; if it is live, its content is frozen first as for a clone.
"""

from contextlib import ExitStack
from typing import Any

from fisk_core.catalog import Record, fisks, maps
from fisk_core.engine import access
from fisk_core.engine.context import Context
from fisk_core.engine.freezing import Freeze, freeze_held, is_steady, new_period
from fisk_core.engine.operating import operating
from fisk_core.engine.replacing import replace_served
from fisk_core.engine.retrying import retrying
from fisk_core.errors import InvalidValue, ReadOnly
from fisk_core.model import Fisk
from fisk_core.services import events, sweep


def revert(context: Context, ref: str, to: str) -> Fisk:
    """Give ``ref`` the content and size of ``to``; what it held is gone unless a snapshot has it.

    Raises ReadOnly for a frozen Fisk, InvalidValue when the two cannot share layers, InUse.
    """
    retrying(context, lambda: _attempt(context, ref, to))
    context.settler.notify()
    with context.catalog.read() as conn:
        return fisks.load(conn, ref)


def _attempt(context: Context, ref: str, to: str) -> None:
    target, source = context.find(ref), context.find(to)
    if target.id == source.id:
        raise InvalidValue(f"Fisk '{target.name}' cannot be reverted to itself")
    with ExitStack() as stack:
        if is_steady(source):
            (target,) = stack.enter_context(operating(context, target.id))
        else:
            target, source = stack.enter_context(operating(context, target.id, source.id))
        _require_compatible(target, source)
        lock = access.seize(context, target, shared=False)
        if lock is not None:
            stack.enter_context(lock)
        (freeze,) = freeze_held(context, stack, [source])
        row = new_period(target, freeze.map_id, freeze.size)
        if lock is None:
            replace_served(context, target, row, freeze.record_in)
        else:
            _revert_unused(context, target, freeze, row)


def _require_compatible(target: Record, source: Record) -> None:
    if target.frozen:
        raise ReadOnly(f"Fisk '{target.name}' is frozen and cannot be reverted")
    if (target.block_size, target.page_size) != (source.block_size, source.page_size):
        raise InvalidValue(f"'{target.name}' and '{source.name}' have different block or page sizes")
    if target.pool_id != source.pool_id:
        raise InvalidValue(f"'{target.name}' and '{source.name}' are in different pools")


def _revert_unused(context: Context, target: Record, freeze: Freeze, row: dict[str, Any]) -> None:
    with context.catalog.change() as conn:
        freeze.record_in(conn)
        maps.begin_period(conn, target, row)
        fisks.update_fisk(conn, target.id, size=freeze.size)
        events.emit(conn, "fisk.reverted", target.id, size=freeze.size)
        garbage = maps.drop_unneeded(conn, [target.map_id])
    sweep.remove(context, garbage)

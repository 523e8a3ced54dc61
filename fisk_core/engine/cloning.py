# SPDX-License-Identifier: Apache-2.0
"""Clones: new live Fisks whose first period is based on a frozen map.  One transaction, however many; no I/O.

A clone of a live Fisk freezes what that holds first and leaves no other trace of it: the map stays as long as
the source or a clone is based on it.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from fisk_core.catalog import fisks, maps
from fisk_core.engine import validate
from fisk_core.engine.context import Context
from fisk_core.engine.freezing import Freeze, freezing
from fisk_core.engine.lifecycle import existing
from fisk_core.engine.retrying import retrying
from fisk_core.errors import InvalidValue
from fisk_core.model import Fisk, Role, State
from fisk_core.services import events


def clone(
    context: Context,
    ref: str,
    name: str,
    *,
    count: int = 1,
    role: str = Role.VOLUME,
    size: int | None = None,
    attributes: Mapping[str, str] | None = None,
    id: str | None = None,
) -> list[Fisk]:
    """Make ``count`` clones; several are called ``name-1`` to ``name-count``.  ``size`` may be larger.

    Raises NotFound, AlreadyExists, InvalidValue (a smaller size), InUse.
    """
    names = validate.clone_names(name, count)
    validate.role(role)
    labels = validate.set_attributes(attributes)
    if size is not None:
        validate.size(size)
    if id is not None:
        if count > 1:
            raise InvalidValue("several clones cannot have one id")
        found = existing(context, id, {"name": name, "role": role, "parent_id": context.find(ref).id})
        if found is not None:
            return [found]
    ids = [validate.fisk_id(id) for _ in names]

    def attempt() -> list[Fisk]:
        with freezing(context, [ref], names) as (source,):
            if size is not None:
                validate.fits(size, context.open_pool(source.record.pool))
            rows, periods = _rows(source, names, ids, role, size)
            with context.catalog.change() as conn:
                fisks.require_free(conn, names)
                source.record_in(conn)
                maps.insert_maps(conn, periods)
                fisks.insert_fisks(conn, rows, labels)
                told = {"name": name, "role": role, "state": State.LIVE.value, "parent_id": source.record.id}
                events.emit_many(conn, "fisk.created", ids, **told)
        return [fisks.as_fisk(row, source.record.pool, labels) for row in rows]

    made = retrying(context, attempt)
    context.settler.notify()
    return made


def _rows(
    source: Freeze, names: list[str], ids: list[str], role: str, size: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give the rows of the clones and of their periods."""
    record, new_size = source.record, source.size if size is None else size
    if new_size < source.size:
        raise InvalidValue(
            f"a clone of '{record.name}' cannot be smaller than its {source.size} bytes; shrink it afterwards"
        )
    periods = [
        maps.period(str(uuid.uuid4()), record.pool_id, source.map_id, source.size, each) for each in ids
    ]
    rows = [
        fisks.new_row(
            id=fisk_id,
            name=name,
            size=new_size,
            state=State.LIVE.value,
            role=role,
            pool_id=record.pool_id,
            map_id=period["id"],
            parent_id=record.id,
            block_size=record.block_size,
            page_size=record.page_size,
        )
        for fisk_id, name, period in zip(ids, names, periods, strict=True)
    ]
    return rows, periods

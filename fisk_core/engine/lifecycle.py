# SPDX-License-Identifier: Apache-2.0
"""Creating Fisks, finding them, and changing what does not concern their content."""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from fisk_core.blockmap import seal
from fisk_core.catalog import Record, fisks, maps
from fisk_core.engine import access, placement, validate
from fisk_core.engine.context import Context
from fisk_core.engine.operating import operating
from fisk_core.engine.retrying import retrying
from fisk_core.errors import AlreadyExists, InvalidValue, NotFound
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Fisk, Role, State
from fisk_core.services import events


def create(
    context: Context,
    name: str,
    size: int,
    *,
    pool: str | None = None,
    role: str = Role.VOLUME,
    attributes: Mapping[str, str] | None = None,
    block_size: int = BLOCK_SIZE,
    page_size: int = PAGE_SIZE,
    id: str | None = None,
) -> Fisk:
    """Make an empty live Fisk of ``size`` bytes; it takes space from its first write on.

    The same id with the same parameters gives the Fisk made before.  Raises AlreadyExists, InvalidValue,
    LimitExceeded, NotFound (the pool).
    """
    validate.name(name), validate.size(size), validate.role(role)
    validate.geometry(block_size, page_size)
    labels = validate.set_attributes(attributes)
    where = context.pool_row(placement.choose(context, pool, labels))
    validate.fits(size, context.open_pool(where.name))
    shape = {"size": size, "role": role, "block_size": block_size, "page_size": page_size}
    if id is not None:
        # Another pool may be the one for its class by now; that makes it no other Fisk.
        place = {} if pool is None else {"pool": where.name}
        found = existing(context, id, {"name": name, "attributes": labels, **place, **shape})
        if found is not None:
            return found
    fisk_id, map_id = validate.fisk_id(id), str(uuid.uuid4())
    row = fisks.new_row(
        id=fisk_id, name=name, state=State.LIVE.value, pool_id=where.id, map_id=map_id, **shape
    )

    def attempt() -> Fisk:
        with context.catalog.change() as conn:
            fisks.require_free(conn, [name])
            maps.insert_maps(conn, [maps.period(map_id, where.id, None, 0, fisk_id)])
            fisks.insert_fisks(conn, [row], labels)
            events.emit(
                conn, "fisk.created", fisk_id, name=name, role=role, state=row["state"], parent_id=None
            )
        return fisks.as_fisk(row, where.name, labels)

    made = retrying(context, attempt)
    context.settler.notify()
    return made


def existing(context: Context, fisk_id: str, wanted: Mapping[str, Any]) -> Fisk | None:
    """Give the Fisk that has a caller's id already, if it is as wanted; raises AlreadyExists if it is not."""
    with context.catalog.read() as conn:
        record = fisks.try_find(conn, validate.fisk_id(fisk_id))
        if record is None:
            return None
        found = record.fisk(fisks.attributes_of(conn, record.id))
    for key, value in wanted.items():
        if getattr(found, key) != value:
            raise AlreadyExists(f"there is a Fisk with id {found.id} already, and its {key} is another")
    return found


def get(context: Context, ref: str) -> Fisk:
    """Give a Fisk by name or id; raises NotFound."""
    with context.catalog.read() as conn:
        return fisks.load(conn, ref)


def select(
    context: Context,
    *,
    role: str | None = None,
    state: str | None = None,
    pool: str | None = None,
    attributes: Mapping[str, str] | None = None,
    name: str | None = None,
) -> list[Fisk]:
    """Give the Fisks that match everything given, oldest first; ``name`` is a pattern like ``web-*``."""
    with context.catalog.read() as conn:
        found = fisks.select_fisks(conn, role=role, state=state, pool=pool, labels=attributes)
    return [fisk for fisk in found if name is None or fnmatchcase(fisk.name, name)]


def change(
    context: Context,
    ref: str,
    *,
    name: str | None = None,
    role: str | None = None,
    attributes: Mapping[str, str | None] | None = None,
    frozen: bool | None = None,
) -> Fisk:
    """Change name, role or attributes (None removes one); ``frozen=True`` makes a Fisk immutable for ever.

    Class and limits take effect at once where the Fisk is served on this host.  Raises InUse when a Fisk to
    be frozen is being written.
    """
    columns: dict[str, Any] = {}
    if name is not None:
        columns["name"] = validate.name(name)
    if role is not None:
        columns["role"] = validate.role(role)
    labels = validate.attributes(attributes)
    if frozen is False and context.find(ref).frozen:
        raise InvalidValue(f"Fisk '{ref}' is frozen for ever; clone it to write")
    if frozen:
        _freeze(context, ref)

    def attempt() -> Fisk:
        with context.catalog.change() as conn:
            record = fisks.find(conn, ref)
            if columns.get("name", record.name) != record.name:
                fisks.require_free(conn, [columns["name"]])
            if columns or labels:
                fisks.update_fisk(conn, record.id, **columns)
                fisks.set_attributes(conn, record.id, labels)
                if any(map(validate.acted_upon, labels)):
                    validate.conduct(fisks.attributes_of(conn, record.id))
                events.emit(conn, "fisk.changed", record.id, **columns, attributes=sorted(labels))
            return fisks.load(conn, record.id)

    changed = retrying(context, attempt)
    if any(map(validate.acted_upon, labels)):
        _tell_worker(context, changed.id)
    context.settler.notify()
    return changed


def _tell_worker(context: Context, fisk_id: str) -> None:
    """Have a worker act upon the attributes as they are in the catalog.

    One after the other, so that what it is told last is what was stored last.
    """
    with operating(context, fisk_id) as (record,):
        with context.catalog.read() as conn:
            labels = fisks.attributes_of(conn, record.id)
        with suppress(NotFound):  # nobody serves it
            access.call(context, record, {"op": "attributes", "attributes": labels})


def _freeze(context: Context, ref: str) -> None:
    with operating(context, ref) as (record,):
        if record.frozen:
            return
        with access.take(context, record, shared=True):
            if record.readable_map is None:
                access.materialise(context, record)
                record = context.find(record.id)
            if record.opened:
                seal(context.open_pool(record.pool), record.map_id)
            _record_frozen(context, record)


def _record_frozen(context: Context, record: Record) -> None:
    with context.catalog.change() as conn:
        if record.opened:
            maps.mark_sealed(conn, record.map_id, record.size)
        fisks.update_fisk(conn, record.id, state=State.FROZEN.value, map_id=record.readable_map)
        maps.drop_unneeded(conn, [record.map_id])  # a period nobody wrote to has no files
        events.emit(conn, "fisk.frozen", record.id, name=record.name)

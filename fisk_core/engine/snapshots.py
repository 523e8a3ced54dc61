# SPDX-License-Identifier: Apache-2.0
"""Snapshots: a new frozen Fisk that has the map another Fisk has at this moment.

A group of them is of one point in time, and appears in one transaction: all of it or nothing.  The crash
windows are described in ``freezing``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from fisk_core.catalog import fisks
from fisk_core.engine import validate
from fisk_core.engine.context import Context
from fisk_core.engine.freezing import Freeze, freezing
from fisk_core.engine.lifecycle import existing
from fisk_core.engine.retrying import retrying
from fisk_core.errors import AlreadyExists, InvalidValue
from fisk_core.model import Fisk, Role, State
from fisk_core.services import events


def snapshot(
    context: Context,
    ref: str,
    name: str,
    *,
    role: str = Role.SNAPSHOT,
    attributes: Mapping[str, str] | None = None,
    id: str | None = None,
) -> Fisk:
    """Freeze what ``ref`` holds now under a new name.  Raises NotFound, AlreadyExists, InUse, NoSpace."""
    if id is not None:
        found = existing(context, id, {"name": name, "role": role, "parent_id": context.find(ref).id})
        if found is not None:
            return found
    return _take(context, [(ref, name)], role, [attributes], [validate.fisk_id(id)])[0]


def group_snapshot(
    context: Context,
    pairs: Sequence[tuple[str, str]],
    *,
    role: str = Role.SNAPSHOT,
    attributes: Sequence[Mapping[str, str] | None] | None = None,
    ids: Sequence[str] | None = None,
) -> list[Fisk]:
    """Take snapshots of several Fisks, given as (Fisk, name of the snapshot), at one point in time.

    ``attributes`` and ``ids`` are those of the snapshots, in the order of ``pairs``.  Raises what
    :func:`snapshot` raises, InvalidValue for a Fisk, a name or an id twice.
    """
    sources = [context.find(ref).id for ref, _ in pairs]
    if len(set(sources)) < len(pairs):
        raise InvalidValue("a group snapshot names a Fisk twice")
    if any(given is not None and len(given) != len(pairs) for given in (attributes, ids)):
        raise InvalidValue("a group snapshot takes as many ids and attributes as there are Fisks")
    if not pairs:
        return []
    if ids is not None and (found := _taken(context, pairs, sources, role, ids)):
        return found
    none = [None] * len(pairs)
    chosen = [validate.fisk_id(each) for each in (none if ids is None else ids)]
    return _take(context, pairs, role, attributes or none, chosen)


def _taken(
    context: Context, pairs: Sequence[tuple[str, str]], sources: list[str], role: str, ids: Sequence[str]
) -> list[Fisk]:
    """Give the snapshots of a group that was taken before, under these ids; none when it was not."""
    if len(set(ids)) < len(ids):
        raise InvalidValue("a group snapshot gives an id twice")
    members = zip(ids, pairs, sources, strict=True)
    found = [
        existing(context, each, {"name": name, "role": role, "parent_id": source})
        for each, (_, name), source in members
    ]
    there = [fisk for fisk in found if fisk is not None]
    if there and len(there) < len(found):
        raise AlreadyExists(f"there is a Fisk with id {there[0].id} already, and not the rest of its group")
    return there


def _take(
    context: Context,
    pairs: Sequence[tuple[str, str]],
    role: str,
    attributes: Sequence[Mapping[str, str] | None],
    ids: Sequence[str],
) -> list[Fisk]:
    names = [validate.name(name) for _, name in pairs]
    validate.role(role)
    labels = [validate.set_attributes(each) for each in attributes]
    if len(set(names)) < len(names):
        raise InvalidValue("a group snapshot names two snapshots alike")

    def attempt() -> list[Fisk]:
        refs = [ref for ref, _ in pairs]
        with freezing(context, refs, names) as freezes, context.catalog.change() as conn:
            fisks.require_free(conn, names)
            for each in freezes:
                each.record_in(conn)
            rows = [_row(*each, role) for each in zip(freezes, names, ids, strict=True)]
            fisks.insert_fisks(conn, rows)
            fisks.insert_attributes(conn, zip(ids, labels, strict=True))
            for row in rows:
                _tell(conn, row)
        made = zip(rows, freezes, labels, strict=True)
        return [fisks.as_fisk(row, each.record.pool, own) for row, each, own in made]

    taken = retrying(context, attempt)
    context.settler.notify()
    return taken


def _tell(conn: Connection, row: Mapping[str, Any]) -> None:
    shown = {key: row[key] for key in ("name", "role", "state", "parent_id")}
    events.emit(conn, "fisk.created", row["id"], **shown)


def _row(freeze: Freeze, name: str, fisk_id: str, role: str) -> dict[str, Any]:
    source = freeze.record
    return fisks.new_row(
        id=fisk_id,
        name=name,
        size=freeze.size,
        state=State.FROZEN.value,
        role=role,
        pool_id=source.pool_id,
        map_id=freeze.map_id,
        parent_id=source.id,
        block_size=source.block_size,
        page_size=source.page_size,
    )

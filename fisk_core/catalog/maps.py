# SPDX-License-Identifier: Apache-2.0
"""Statements on maps and layers: periods begin, are opened, sealed, get a blob, and go when nobody needs
them.

What may be removed is decided here and nowhere else: a map goes when no Fisk points to it and no map is
based on it; a layer goes when no map names it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, exists, insert, or_, select, update

from fisk_core.catalog.fisks import CHUNK, Record
from fisk_core.catalog.schema import fisks, layers, map_layers, maps, pools
from fisk_core.errors import NotFound


class MapRow(NamedTuple):
    """A row of ``maps`` with the name of its pool; the columns are explained in the schema."""

    num: int
    id: str
    pool_id: int
    pool: str
    base: str | None
    base_size: int
    size: int | None
    writer: str
    opened: bool
    sealed: bool
    has_blob: bool


@dataclass(slots=True)
class Garbage:
    """What a transaction forgot, as (pool name, id): files to remove once it is committed."""

    layers: list[tuple[str, str]] = field(default_factory=list)
    maps: list[tuple[str, str]] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)
    fisks: list[tuple[str, str]] = field(default_factory=list)


_MAPS: Select[Any] = select(
    maps.c.num,
    maps.c.id,
    maps.c.pool_id,
    pools.c.name,
    maps.c.base,
    maps.c.base_size,
    maps.c.size,
    maps.c.writer,
    maps.c.opened,
    maps.c.sealed,
    maps.c.has_blob,
).select_from(maps.join(pools, pools.c.id == maps.c.pool_id))
_BY_ID = _MAPS.where(maps.c.id == bindparam("ref"))
_INSERT_MAPS, _INSERT_LAYERS, _INSERT_NAMES = insert(maps), insert(layers), insert(map_layers)
# Built once: making a statement takes longer than running one.
_SEAL_MAP = update(maps).where(maps.c.id == bindparam("ref")).values(sealed=True, size=bindparam("now"))
_FREEZE_LAYER = update(layers).where(layers.c.id == bindparam("ref")).values(frozen=True)
_POINT = (
    update(fisks)
    .where(fisks.c.id == bindparam("ref"))
    .values(map_id=bindparam("to"), next_map=None, revision=fisks.c.revision + 1)
)
_pointing = exists().where(or_(fisks.c.map_id == maps.c.id, fisks.c.next_map == maps.c.id))
_child = maps.alias("child_map")
_unneeded = (~_pointing, ~exists().where(_child.c.base == maps.c.id))


def find(conn: Connection, map_id: str) -> MapRow:
    """Give one map; raises NotFound."""
    row = conn.execute(_BY_ID, {"ref": map_id}).first()
    if row is None:
        raise NotFound(f"there is no map {map_id}")
    return MapRow._make(row)


def exists_map(conn: Connection, map_id: str) -> bool:
    return conn.execute(_BY_ID, {"ref": map_id}).first() is not None


def select_maps(conn: Connection, *conditions: Any) -> list[MapRow]:
    """Give the maps that meet the conditions, oldest first."""
    return [MapRow._make(row) for row in conn.execute(_MAPS.where(*conditions).order_by(maps.c.num))]


def period(map_id: str, pool_id: int, base: str | None, base_size: int, writer: str) -> dict[str, Any]:
    """Give the row of a period nobody has written in: no files, reads as its base."""
    return {
        "id": map_id,
        "pool_id": pool_id,
        "base": base,
        "base_size": base_size,
        "size": None,
        "writer": writer,
        "opened": False,
        "sealed": False,
        "has_blob": False,
    }


def insert_maps(conn: Connection, rows: Sequence[dict[str, Any]]) -> None:
    conn.execute(_INSERT_MAPS, rows)


def mark_opened(conn: Connection, map_id: str, pool_id: int) -> None:
    """The period's log and layer exist now: name the layer."""
    conn.execute(update(maps).where(maps.c.id == map_id).values(opened=True))
    conn.execute(_INSERT_LAYERS, {"id": map_id, "pool_id": pool_id, "frozen": False, "suspect": False})
    own = select(maps.c.num, layers.c.num).join(layers, layers.c.id == maps.c.id).where(maps.c.id == map_id)
    conn.execute(insert(map_layers).from_select(["map", "layer"], own))


def mark_sealed(conn: Connection, map_id: str, size: int) -> None:
    """Nobody writes in the period any more and it is durable; ``size`` is its Fisk's, in bytes."""
    conn.execute(_SEAL_MAP, {"ref": map_id, "now": size})
    conn.execute(_FREEZE_LAYER, {"ref": map_id})


def mark_suspect(conn: Connection, map_id: str) -> None:
    """The layers that the map names may hold blocks nobody points to any more."""
    named = select(map_layers.c.layer).join(maps, maps.c.num == map_layers.c.map).where(maps.c.id == map_id)
    conn.execute(update(layers).where(layers.c.num.in_(named)).values(suspect=True))


def unsettled(conn: Connection) -> list[MapRow]:
    """Give the sealed maps that have no blob yet, oldest (so bases) first."""
    return select_maps(conn, maps.c.has_blob.is_(False), maps.c.opened.is_(True), maps.c.sealed.is_(True))


def abandoned(conn: Connection) -> list[MapRow]:
    """Give the opened, unsealed maps that no Fisk points to: snapshots that were interrupted."""
    return select_maps(
        conn, maps.c.has_blob.is_(False), maps.c.opened.is_(True), maps.c.sealed.is_(False), ~_pointing
    )


def set_blob(conn: Connection, row: MapRow, named: Iterable[str]) -> Garbage:
    """The map's blob is durable and names these layers: it needs its base and log no more."""
    conn.execute(update(maps).where(maps.c.num == row.num).values(has_blob=True, base=None))
    old = _names_of(conn, [row.num])
    conn.execute(delete(map_layers).where(map_layers.c.map == row.num))
    name_layers(conn, row.id, named)
    garbage = drop_unneeded(conn, [row.base] if row.base else [])
    _drop_layers(conn, old - _names_of(conn, [row.num]), garbage)
    if not row.has_blob:
        garbage.logs.append((row.pool, row.id))
    return garbage


def drop_unneeded(conn: Connection, candidates: Iterable[str]) -> Garbage:
    """Remove those of the maps that nobody needs, then their bases likewise, and the layers none names."""
    garbage, touched, current = Garbage(), set[int](), [each for each in candidates if each]
    while current:
        gone = _unneeded_of(conn, current)
        nums = [row.num for row in gone]
        touched |= _names_of(conn, nums)
        for start in range(0, len(nums), CHUNK):
            chunk = nums[start : start + CHUNK]
            conn.execute(delete(map_layers).where(map_layers.c.map.in_(chunk)))
            conn.execute(delete(maps).where(maps.c.num.in_(chunk)))
        garbage.maps += [(row.pool, row.id) for row in gone]
        garbage.logs += [(row.pool, row.id) for row in gone if row.opened and not row.has_blob]
        _suspect_bases(conn, set(current) - {row.id for row in gone})
        current = sorted({row.base for row in gone if row.base})
    _drop_layers(conn, touched, garbage)
    return garbage


def _suspect_bases(conn: Connection, kept: set[str]) -> None:
    """Mark the layers of maps that are kept only as bases: what the Fisks on them hide is nobody's now."""
    ids = sorted(kept)
    for start in range(0, len(ids), CHUNK):
        for row in select_maps(conn, maps.c.id.in_(ids[start : start + CHUNK]), ~_pointing):
            mark_suspect(conn, row.id)


def _unneeded_of(conn: Connection, candidates: Sequence[str]) -> list[MapRow]:
    found: list[MapRow] = []
    for start in range(0, len(candidates), CHUNK):
        query = _MAPS.where(maps.c.id.in_(candidates[start : start + CHUNK]), *_unneeded)
        found += [MapRow._make(row) for row in conn.execute(query)]
    return found


def _names_of(conn: Connection, nums: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for start in range(0, len(nums), CHUNK):
        query = select(map_layers.c.layer).where(map_layers.c.map.in_(nums[start : start + CHUNK]))
        found.update(conn.execute(query).scalars())
    return found


def _drop_layers(conn: Connection, touched: Iterable[int], garbage: Garbage) -> None:
    """Of the layers a map let go of, remove those none names and mark the others suspect."""
    nums = sorted(touched)
    named = exists().where(map_layers.c.layer == layers.c.num)
    for start in range(0, len(nums), CHUNK):
        chunk = nums[start : start + CHUNK]
        query = (
            select(pools.c.name, layers.c.id, layers.c.num)
            .join(pools, pools.c.id == layers.c.pool_id)
            .where(layers.c.num.in_(chunk), ~named)
        )
        gone = conn.execute(query).all()
        conn.execute(delete(layers).where(layers.c.num.in_([num for _, _, num in gone])))
        conn.execute(update(layers).where(layers.c.num.in_(chunk)).values(suspect=True))
        garbage.layers += [(pool, layer) for pool, layer, _ in gone]


def add_layers(conn: Connection, pool_id: int, ids: Iterable[str], *, frozen: bool) -> None:
    """Insert those of the layers that have no row; they are suspect, nobody knows their past."""
    wanted, known = sorted(ids), set[str]()
    for start in range(0, len(wanted), CHUNK):
        query = select(layers.c.id).where(layers.c.id.in_(wanted[start : start + CHUNK]))
        known.update(conn.execute(query).scalars())
    rows = [
        {"id": each, "pool_id": pool_id, "frozen": frozen, "suspect": frozen}
        for each in wanted
        if each not in known
    ]
    if rows:
        conn.execute(_INSERT_LAYERS, rows)


def name_layers(conn: Connection, map_id: str, named: Iterable[str]) -> None:
    """Note that a map names these layers."""
    num, wanted = find(conn, map_id).num, list(named)
    for start in range(0, len(wanted), CHUNK):
        found = select(layers.c.num).where(layers.c.id.in_(wanted[start : start + CHUNK]))
        rows = [{"map": num, "layer": layer} for layer in conn.execute(found).scalars()]
        if rows:
            conn.execute(_INSERT_NAMES, rows)


def drop_layers(conn: Connection, ids: Sequence[str]) -> Garbage:
    """Remove those of the layers that no map names."""
    garbage = Garbage()
    nums = conn.execute(select(layers.c.num).where(layers.c.id.in_(ids))).scalars().all()
    _drop_layers(conn, nums, garbage)
    return garbage


def layers_of(conn: Connection, map_id: str) -> set[str]:
    """Give the ids of the layers that a map itself names (not those of its base)."""
    query = (
        select(layers.c.id)
        .join(map_layers, map_layers.c.layer == layers.c.num)
        .join(maps, maps.c.num == map_layers.c.map)
        .where(maps.c.id == map_id)
    )
    return set(conn.execute(query).scalars())


def maps_naming(conn: Connection, layer_id: str) -> list[MapRow]:
    """Give the maps that name a layer themselves; maps based on them see no block of it that they do not."""
    naming = (
        select(map_layers.c.map)
        .join(layers, layers.c.num == map_layers.c.layer)
        .where(layers.c.id == layer_id)
    )
    return select_maps(conn, maps.c.num.in_(naming))


def suspects(conn: Connection, pool: str) -> list[str]:
    """Give the frozen layers of a pool that may hold blocks nobody points to."""
    query = (
        select(layers.c.id)
        .join(pools, pools.c.id == layers.c.pool_id)
        .where(layers.c.suspect.is_(True), layers.c.frozen.is_(True), pools.c.name == pool)
        .order_by(layers.c.num)
    )
    return list(conn.execute(query).scalars())


def clear_suspect(conn: Connection, layer_id: str) -> None:
    conn.execute(update(layers).where(layers.c.id == layer_id).values(suspect=False))


def children(conn: Connection, map_id: str) -> list[MapRow]:
    """Give the maps that are based on this one."""
    return select_maps(conn, maps.c.base == map_id)


def layer_ids(conn: Connection, pool: str) -> set[str]:
    """Give every layer of a pool that the catalog knows."""
    query = select(layers.c.id).join(pools, pools.c.id == layers.c.pool_id).where(pools.c.name == pool)
    return set(conn.execute(query).scalars())


def begin_period(conn: Connection, record: Record, row: dict[str, Any]) -> None:
    """Insert the period of ``row`` and let the Fisk write there from now on; the old map stays."""
    insert_maps(conn, [row])
    conn.execute(_POINT, {"ref": record.id, "to": row["id"]})

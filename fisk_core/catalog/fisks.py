# SPDX-License-Identifier: Apache-2.0
"""Statements on Fisks and their attributes."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, exists, insert, or_, select, update

from fisk_core.catalog.schema import attributes, fisks, maps, pools
from fisk_core.errors import AlreadyExists, NotFound
from fisk_core.model import Fisk, State

CHUNK = 500
"""Values in one IN list; databases limit it."""

_base = maps.alias("base_map")


class Record(NamedTuple):
    """A Fisk's row with its map's: what every operation decides on, in one query.

    ``readable_map`` is the map to load (None: nothing was ever written, all zeros).
    """

    id: str
    name: str
    size: int
    state: str
    role: str
    pool_id: int
    pool: str
    map_id: str
    next_map: str | None
    parent_id: str | None
    block_size: int
    page_size: int
    created_at: datetime
    revision: int
    published: int
    opened: bool
    sealed: bool
    base_id: str | None
    base_size: int
    base_sealed: bool | None

    @property
    def frozen(self) -> bool:
        return self.state == State.FROZEN

    @property
    def readable_map(self) -> str | None:
        return self.map_id if self.opened else self.base_id

    @property
    def unsettled(self) -> bool:
        """An operation was interrupted: what it stands on is not sealed, or a switch is undecided."""
        return self.next_map is not None or self.base_sealed is False

    def fisk(self, labels: Mapping[str, str]) -> Fisk:
        return Fisk(
            id=self.id,
            name=self.name,
            size=self.size,
            state=State(self.state),
            role=self.role,
            pool=self.pool,
            map_id=self.map_id,
            created_at=self.created_at.replace(tzinfo=UTC),
            parent_id=self.parent_id,
            block_size=self.block_size,
            page_size=self.page_size,
            attributes=dict(labels),
        )


_RECORDS: Select[Any] = select(
    fisks.c.id,
    fisks.c.name,
    fisks.c.size,
    fisks.c.state,
    fisks.c.role,
    fisks.c.pool_id,
    pools.c.name,
    fisks.c.map_id,
    fisks.c.next_map,
    fisks.c.parent_id,
    fisks.c.block_size,
    fisks.c.page_size,
    fisks.c.created_at,
    fisks.c.revision,
    fisks.c.published,
    maps.c.opened,
    maps.c.sealed,
    maps.c.base,
    maps.c.base_size,
    _base.c.sealed,
).select_from(
    fisks.join(pools, pools.c.id == fisks.c.pool_id)
    .join(maps, maps.c.id == fisks.c.map_id)
    .outerjoin(_base, _base.c.id == maps.c.base)
)
_BY_ID = _RECORDS.where(fisks.c.id == bindparam("ref"))
_BY_NAME = _RECORDS.where(fisks.c.name == bindparam("ref"))
_ATTRIBUTES = select(attributes.c.key, attributes.c.value).where(attributes.c.fisk_id == bindparam("ref"))
_NAMED = select(fisks.c.name, fisks.c.state, fisks.c.id).where(
    fisks.c.name.in_(bindparam("names", expanding=True))
)
_INSERT, _INSERT_ATTRIBUTES = insert(fisks), insert(attributes)


def new_id() -> str:
    """Give an id that was never used before."""
    return str(uuid.uuid4())


def is_id(ref: str) -> bool:
    """Whether ``ref`` has the shape of an id (names never have)."""
    try:
        return len(ref) == 36 and str(uuid.UUID(ref)) == ref.lower()
    except ValueError:
        return False


def find(conn: Connection, ref: str, *, building: bool = False) -> Record:
    """Give the Fisk called ``ref`` or with that id; one still being built only if asked.  Raises NotFound."""
    found = try_find(conn, ref)
    if found is None or (found.state == State.BUILDING and not building):
        raise NotFound(f"there is no Fisk '{ref}'")
    return found


def try_find(conn: Connection, ref: str) -> Record | None:
    if is_id(ref):
        row = conn.execute(_BY_ID, {"ref": ref.lower()}).first()
    else:
        row = conn.execute(_BY_NAME, {"ref": ref}).first()
    return Record._make(row) if row is not None else None


def load(conn: Connection, ref: str) -> Fisk:
    record = find(conn, ref)
    return record.fisk(attributes_of(conn, record.id))


def attributes_of(conn: Connection, fisk_id: str) -> dict[str, str]:
    return {key: value for key, value in conn.execute(_ATTRIBUTES, {"ref": fisk_id})}


def records(conn: Connection, *conditions: Any) -> list[Record]:
    """Give all rows that meet the conditions, oldest first."""
    query = _RECORDS.where(*conditions).order_by(fisks.c.created_at, fisks.c.name)
    return [Record._make(row) for row in conn.execute(query)]


def pointing(conn: Connection, map_id: str) -> list[Record]:
    """Give the Fisks that point to a map, or are about to."""
    return records(conn, or_(fisks.c.map_id == map_id, fisks.c.next_map == map_id))


def select_fisks(
    conn: Connection,
    *,
    role: str | None = None,
    state: str | None = None,
    pool: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[Fisk]:
    """Give the Fisks that match everything given, oldest first; ``building`` ones only if asked for."""
    conditions: list[Any] = [fisks.c.state == state if state else fisks.c.state != State.BUILDING.value]
    if role is not None:
        conditions.append(fisks.c.role == role)
    if pool is not None:
        conditions.append(pools.c.name == pool)
    conditions += [_has_attribute(key, value) for key, value in (labels or {}).items()]
    found = records(conn, *conditions)
    every: dict[str, dict[str, str]] = {}
    for fisk_id, key, value in conn.execute(select(attributes).order_by(attributes.c.key)):
        every.setdefault(fisk_id, {})[key] = value
    return [record.fisk(every.get(record.id, {})) for record in found]


def _has_attribute(key: str, value: str) -> Any:
    own = attributes.c.fisk_id == fisks.c.id
    return exists().where(own, attributes.c.key == key, attributes.c.value == value)


class Conflict(AlreadyExists):
    """Names that are taken; ``building`` are the ids of the imports among their holders."""

    def __init__(self, message: str, building: list[str]) -> None:
        super().__init__(message)
        self.building = building


def require_free(conn: Connection, names: Sequence[str]) -> None:
    """Raise Conflict (an AlreadyExists) when one of the names is taken."""
    taken: list[tuple[str, str, str]] = []
    for start in range(0, len(names), CHUNK):
        found = conn.execute(_NAMED, {"names": names[start : start + CHUNK]})
        taken += [(name, state, fisk_id) for name, state, fisk_id in found]
    if taken:
        building = [fisk_id for _, state, fisk_id in taken if state == State.BUILDING]
        raise Conflict(f"there is a Fisk '{min(name for name, _, _ in taken)}' already", building)


def insert_fisks(
    conn: Connection, rows: Sequence[dict[str, Any]], labels: Mapping[str, str] | None = None
) -> None:
    """Insert rows of ``new_row``, each with the same attributes."""
    conn.execute(_INSERT, rows)
    insert_attributes(conn, ((row["id"], labels or {}) for row in rows))


def insert_attributes(conn: Connection, labels: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Insert the attributes of Fisks that have none yet, by id."""
    pairs = [{"fisk_id": each, "key": k, "value": v} for each, own in labels for k, v in own.items()]
    if pairs:
        conn.execute(_INSERT_ATTRIBUTES, pairs)


def new_row(**values: Any) -> dict[str, Any]:
    """Give a complete row from the values that differ between Fisks."""
    now = datetime.now(UTC).replace(tzinfo=None)
    return {"next_map": None, "parent_id": None, "created_at": now, "revision": 1, "published": 0, **values}


def as_fisk(row: Mapping[str, Any], pool: str, labels: Mapping[str, str]) -> Fisk:
    """Give the Fisk that a row of ``new_row`` describes."""
    return Fisk(
        id=row["id"],
        name=row["name"],
        size=row["size"],
        state=State(row["state"]),
        role=row["role"],
        pool=pool,
        map_id=row["map_id"],
        created_at=row["created_at"].replace(tzinfo=UTC),
        parent_id=row["parent_id"],
        block_size=row["block_size"],
        page_size=row["page_size"],
        attributes=dict(labels),
    )


def update_fisk(conn: Connection, fisk_id: str, **values: Any) -> None:
    """Change columns, and count the change."""
    conn.execute(
        update(fisks).where(fisks.c.id == fisk_id).values(revision=fisks.c.revision + 1, **values),
    )


def set_attributes(conn: Connection, fisk_id: str, labels: Mapping[str, str | None]) -> None:
    """Set the given attributes, removing those whose value is None; others stay."""
    for start in range(0, len(labels), CHUNK):
        keys = list(labels)[start : start + CHUNK]
        conn.execute(delete(attributes).where(attributes.c.fisk_id == fisk_id, attributes.c.key.in_(keys)))
    pairs = [{"fisk_id": fisk_id, "key": k, "value": v} for k, v in labels.items() if v is not None]
    if pairs:
        conn.execute(_INSERT_ATTRIBUTES, pairs)


def delete_fisks(conn: Connection, ids: Iterable[str]) -> None:
    """Remove rows; attributes and leases go with them."""
    conn.execute(delete(fisks).where(fisks.c.id == bindparam("gone")), [{"gone": each} for each in ids])


def unpublished(conn: Connection) -> list[Record]:
    """Give the Fisks whose copy in the pool is not current."""
    return records(conn, fisks.c.published != fisks.c.revision, fisks.c.state != State.BUILDING.value)


def mark_published(conn: Connection, written: Sequence[Record]) -> set[str]:
    """Note that these revisions are in their pools now; gives the ids of those gone or moved meanwhile."""
    here = (fisks.c.id == bindparam("fisk"), fisks.c.pool_id == bindparam("where"))
    rows = [{"fisk": each.id, "where": each.pool_id, "done": each.revision} for each in written]
    conn.execute(update(fisks).where(*here).values(published=bindparam("done")), rows)
    left = set[tuple[str, int]]()
    for start in range(0, len(written), CHUNK):
        ids = [each.id for each in written[start : start + CHUNK]]
        query = select(fisks.c.id, fisks.c.pool_id).where(fisks.c.id.in_(ids))
        left.update((fisk_id, pool_id) for fisk_id, pool_id in conn.execute(query))
    return {each.id for each in written if (each.id, each.pool_id) not in left}

# SPDX-License-Identifier: Apache-2.0
"""Pages of Fisks: how a list with very many of them is read, oldest first."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, and_, exists, func, or_, select

from fisk_core.catalog.fisks import CHUNK, find, records, try_find
from fisk_core.catalog.schema import attributes, fisks, layers, pools
from fisk_core.model import Fisk, State

_LITERAL = re.compile(r"[^*?\[]*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the Fisks of a list have in common; ``name`` is a pattern like ``web-*``."""

    role: str | None = None
    state: str | None = None
    pool: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def conditions(self) -> list[Any]:
        found: list[Any] = [
            fisks.c.state == self.state if self.state else fisks.c.state != State.BUILDING.value
        ]
        if self.role is not None:
            found.append(fisks.c.role == self.role)
        if self.pool is not None:
            found.append(pools.c.name == self.pool)
        if self.name is not None:  # what a pattern begins with narrows the search, the rest is looked at here
            found.append(fisks.c.name.startswith(_prefix(self.name), autoescape=True))
        return found + [_labelled(key, value) for key, value in self.labels.items()]

    def matches(self, name: str) -> bool:
        return self.name is None or fnmatchcase(name, self.name)


def _prefix(pattern: str) -> str:
    match = _LITERAL.match(pattern)
    return match.group() if match else ""


def _labelled(key: str, value: str) -> Any:
    own = attributes.c.fisk_id == fisks.c.id
    return exists().where(own, attributes.c.key == key, attributes.c.value == value)


def page(conn: Connection, wanted: Wanted, most: int, marker: str | None = None) -> list[Fisk]:
    """Give the first ``most`` Fisks wanted that come after the one with id ``marker``; raises NotFound."""
    ids = _ids(conn, wanted, most, marker)
    found: list[Fisk] = []
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        labels = _labels(conn, part)
        found += [each.fisk(labels.get(each.id, {})) for each in records(conn, fisks.c.id.in_(part))]
    return found


def present(conn: Connection, refs: Iterable[str]) -> list[str]:
    """Give the ids of those among names and ids that there are, each once."""
    found = (try_find(conn, ref) for ref in refs)
    return list(dict.fromkeys(each.id for each in found if each and each.state != State.BUILDING))


def _ids(conn: Connection, wanted: Wanted, most: int, marker: str | None) -> list[str]:
    after: tuple[datetime, str] | None = None
    if marker is not None:
        last = find(conn, marker, building=True)
        after = last.created_at, last.name
    query = (
        select(fisks.c.id, fisks.c.name, fisks.c.created_at)
        .select_from(fisks.join(pools, pools.c.id == fisks.c.pool_id))
        .where(*wanted.conditions())
        .order_by(fisks.c.created_at, fisks.c.name)
        .limit(max(most, CHUNK) if wanted.name else most)
    )
    ids: list[str] = []
    while len(ids) < most:
        rows = conn.execute(query.where(_behind(*after)) if after else query).all()
        ids += [fisk_id for fisk_id, name, _ in rows if wanted.matches(name)]
        if not rows or wanted.name is None:
            break
        after = rows[-1].created_at, rows[-1].name
    return ids[:most]


def _behind(created: datetime, name: str) -> Any:
    same = and_(fisks.c.created_at == created, fisks.c.name > name)
    return or_(fisks.c.created_at > created, same)


def _labels(conn: Connection, ids: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    query = select(attributes).where(attributes.c.fisk_id.in_(ids)).order_by(attributes.c.key)
    for fisk_id, key, value in conn.execute(query):
        found.setdefault(fisk_id, {})[key] = value
    return found


def names(conn: Connection, ids: list[str]) -> dict[str, str]:
    """Give the names of Fisks by id, of those that there are."""
    found: dict[str, str] = {}
    for start in range(0, len(ids), CHUNK):
        query = select(fisks.c.id, fisks.c.name).where(fisks.c.id.in_(ids[start : start + CHUNK]))
        found.update((fisk_id, name) for fisk_id, name in conn.execute(query))
    return found


def count(conn: Connection) -> dict[tuple[str, str], int]:
    """Give how many Fisks there are, by (state, role)."""
    query = select(fisks.c.state, fisks.c.role, func.count()).group_by(fisks.c.state, fisks.c.role)
    return {(state, role): number for state, role, number in conn.execute(query)}


def suspect_layers(conn: Connection) -> dict[str, int]:
    """Give how many layers of each pool the collector still has to look at."""
    query = (
        select(pools.c.name, func.count())
        .select_from(layers.join(pools, pools.c.id == layers.c.pool_id))
        .where(layers.c.suspect)
        .group_by(pools.c.name)
    )
    return {name: number for name, number in conn.execute(query)}

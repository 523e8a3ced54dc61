# SPDX-License-Identifier: Apache-2.0
"""Statements on pools."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from fisk_core.catalog.schema import pools
from fisk_core.errors import NotFound


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool as the catalog knows it; ``options`` are its driver's."""

    id: int
    name: str
    uuid: str
    driver: str
    class_path: str
    options: Mapping[str, Any]


_ALL = select(pools.c.id, pools.c.name, pools.c.uuid, pools.c.driver, pools.c.class_path, pools.c.options)


def find(conn: Connection, name: str) -> PoolRow:
    """Give one pool; raises NotFound."""
    row = conn.execute(_ALL.where(pools.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no pool '{name}'")
    return PoolRow(*row)


def every(conn: Connection) -> list[PoolRow]:
    return [PoolRow(*row) for row in conn.execute(_ALL.order_by(pools.c.id))]


def add(conn: Connection, uuid: str, spec: Mapping[str, Any]) -> None:
    """Note a pool, given its id and what ``Pool.spec`` says of it."""
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {"name": spec["name"], "driver": spec["driver"], "options": spec["options"]}
    conn.execute(insert(pools).values(uuid=uuid, class_path=spec["class"], created_at=now, **values))


def set_options(conn: Connection, name: str, options: Mapping[str, Any]) -> None:
    conn.execute(update(pools).where(pools.c.name == name).values(options=dict(options)))


def set_class(conn: Connection, name: str, class_path: str) -> None:
    """Note where a pool's driver was found."""
    conn.execute(update(pools).where(pools.c.name == name).values(class_path=class_path))

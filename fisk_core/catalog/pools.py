# SPDX-License-Identifier: Apache-2.0
"""Statements on pools."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from fisk_core.catalog.schema import pools
from fisk_core.errors import NotFound


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool as the catalog knows it; ``options`` are its driver's."""

    id: int
    name: str
    uuid: str
    driver: str
    options: Mapping[str, Any]


_ALL = select(pools.c.id, pools.c.name, pools.c.uuid, pools.c.driver, pools.c.options)


def find(conn: Connection, name: str) -> PoolRow:
    """Give one pool; raises NotFound."""
    row = conn.execute(_ALL.where(pools.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no pool '{name}'")
    return PoolRow(*row)


def every(conn: Connection) -> list[PoolRow]:
    return [PoolRow(*row) for row in conn.execute(_ALL.order_by(pools.c.id))]


def add(conn: Connection, name: str, uuid: str, driver: str, options: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    conn.execute(
        insert(pools).values(name=name, uuid=uuid, driver=driver, options=dict(options), created_at=now)
    )

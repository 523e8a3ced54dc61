# SPDX-License-Identifier: Apache-2.0
"""Pools as people see them: made, listed, asked how full they are."""

from collections.abc import Mapping
from typing import Any

from fisk_core.catalog import pools as rows
from fisk_core.engine import validate
from fisk_core.engine.context import Context
from fisk_core.model import PoolInfo


def create(context: Context, name: str, driver: str, options: Mapping[str, Any] | None) -> PoolInfo:
    """Make a pool.  A file pool without a path goes into the home directory.  Raises AlreadyExists."""
    context.add_pool(validate.name(name), driver, options or {})
    return info(context, name)


def change(context: Context, name: str, options: Mapping[str, Any]) -> PoolInfo:
    """Give a pool other options, for what opens it from now on: a worker when it starts.

    Raises NotFound, InvalidValue for an option that cannot be changed.
    """
    context.change_pool(name, options)
    return info(context, name)


def info(context: Context, name: str) -> PoolInfo:
    """Give one pool; raises NotFound, and what opening it raises."""
    pool, row = context.open_pool(name), context.pool_row(name)
    space = pool.space()
    return PoolInfo(row.name, row.uuid, row.driver, row.options, space.total, space.free)


def every(context: Context) -> list[PoolInfo]:
    with context.catalog.read() as conn:
        names = [row.name for row in rows.every(conn)]
    return [info(context, name) for name in names]

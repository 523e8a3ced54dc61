# SPDX-License-Identifier: Apache-2.0
"""Which pool a new Fisk goes to when its maker names none: the first one meant for its class."""

from collections.abc import Mapping

from fisk_core.catalog import pools as rows
from fisk_core.dataplane.classes import KEY
from fisk_core.engine.context import Context


def choose(context: Context, pool: str | None, labels: Mapping[str, str]) -> str | None:
    """Give ``pool`` if it is named, else the oldest pool whose option ``classes`` has the Fisk's class.

    None where there is no such pool: the default one is to be used then.
    """
    wanted = labels.get(KEY)
    if pool is not None or wanted is None:
        return pool
    with context.catalog.read() as conn:
        for row in rows.every(conn):
            if wanted in str(row.options.get("classes", "")).split(","):
                return row.name
    return None

# SPDX-License-Identifier: Apache-2.0
"""How a Fisk looks to people of a cloud."""

from typing import Any

from fisk_core.cli.columns import Size, Text
from fisk_openstack.things import Thing

HEADINGS = ("Name", "Kind", "OpenStack ID", "State", "Size", "Pool", "ID")


def row(thing: Thing) -> tuple[Any, ...]:
    """Give the values under ``HEADINGS``."""
    fisk = thing.fisk
    size = Size(fisk.size)
    return (
        Text(thing.name or None),
        thing.kind,
        Text(thing.own or None),
        fisk.state.value,
        size,
        fisk.pool,
        fisk.id,
    )

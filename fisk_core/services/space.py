# SPDX-License-Identifier: Apache-2.0
"""What the layers of a pool take of its medium, and how much of it may be garbage."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core.catalog import maps
from fisk_core.errors import NotFound
from fisk_core.pools.base import Kind

if TYPE_CHECKING:
    from fisk_core.engine.context import Context


@dataclass(frozen=True, slots=True)
class PoolSpace:
    """Bytes of the medium and numbers of layers.

    ``suspect`` are those frozen layers, and the bytes of all their blocks, in which the collector still has
    to look for garbage: no more than ``suspect_bytes`` of what the pool holds can be garbage.
    """

    total: int
    free: int
    layers: int
    layer_bytes: int
    suspect: int
    suspect_bytes: int
    high_water: float
    """percent of the medium from which on expendable snapshots go"""


def pool_space(context: "Context", name: str, high_water: float) -> PoolSpace:
    """Measure a pool; raises NotFound.  Takes a look at each of its layers, microseconds on a local disk."""
    pool = context.open_pool(name)
    with context.catalog.read() as conn:
        layers, suspects = maps.layer_ids(conn, name), set(maps.suspects(conn, name))
    taken = dict.fromkeys(layers, 0)
    for layer in layers:
        with suppress(NotFound):  # it went meanwhile
            taken[layer] = pool.usage(Kind.LAYER, layer)
    medium = pool.space()
    suspect_bytes = sum(taken.get(layer, 0) for layer in suspects)
    return PoolSpace(
        medium.total, medium.free, len(layers), sum(taken.values()), len(suspects), suspect_bytes, high_water
    )

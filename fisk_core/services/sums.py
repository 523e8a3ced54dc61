# SPDX-License-Identifier: Apache-2.0
"""Checksums for layers that were begun without them, by an earlier version, in pools that keep them.

Taken when the layer is frozen: the log that says that it has none goes only after they are durable.
"""

from contextlib import closing

from fisk_core.blockmap import load_map, sums
from fisk_core.pools.base import Kind, Pool


def record(pool: Pool, map_id: str, size: int) -> None:
    """Take the checksums of the layer that was written in the period ``map_id``, durably."""
    if pool.exists(Kind.SUMS, map_id):
        return
    with closing(load_map(pool, map_id, size)) as block_map:
        if map_id not in block_map.layers:
            return
        owner, blocks = block_map.layers.index(map_id), -(-block_map.size // block_map.block_size)
        sums.create(pool, map_id, block_map.block_size)
        sums.take(
            pool, map_id, ((at, count) for at, count, alias in block_map.runs(0, blocks) if alias == owner)
        )
        pool.sync_device_name(Kind.SUMS, map_id)

# SPDX-License-Identifier: Apache-2.0
"""Looking at Fisks: what differs between two, what came from what, and where a byte really lives."""

from collections.abc import Iterator
from contextlib import closing

from fisk_core.blockmap import diff as diff_maps
from fisk_core.catalog import fisks
from fisk_core.engine.context import Context
from fisk_core.errors import InvalidValue
from fisk_core.model import Extent, Route, TreeNode
from fisk_core.pools.base import Kind


def tree(context: Context, ref: str | None = None) -> list[TreeNode]:
    """Give the forest of all lineages, or the tree below one Fisk; who lost its parent is a root."""
    with context.catalog.read() as conn:
        every = fisks.select_fisks(conn)
        root = fisks.find(conn, ref).id if ref is not None else None
    nodes = {fisk.id: TreeNode(fisk) for fisk in every}
    roots: list[TreeNode] = []
    for fisk in every:
        parent = nodes.get(fisk.parent_id or "")
        (parent.children if parent else roots).append(nodes[fisk.id])
    return roots if root is None else [nodes[root]]


def diff(context: Context, a: str, b: str) -> Iterator[Extent]:
    """Give the extents of ``b`` that may read differently from ``a``, ascending.

    Of a Fisk that is being written, what its writer had flushed counts.
    """
    with closing(context.load_map(context.find(a))) as old, closing(context.load_map(context.find(b))) as new:
        yield from diff_maps(old, new)


def route(context: Context, ref: str, offset: int) -> Route:
    """Say where one byte lives; raises InvalidValue when it is outside the Fisk."""
    record = context.find(ref)
    if not 0 <= offset < record.size:
        raise InvalidValue(f"byte {offset} is outside '{record.name}' ({record.size} bytes)")
    with closing(context.load_map(record)) as block_map:
        ((_, _, owner),) = block_map.extents(offset, 1)
        layer = block_map.layers[owner]
    if layer is None:
        return Route(offset, None, None, None, None)
    path = context.open_pool(record.pool).locate(Kind.LAYER, layer)
    return Route(offset, layer, record.pool, str(path) if path else None, offset)

# SPDX-License-Identifier: Apache-2.0
"""How much a Fisk takes: what it offers, what its map names, and what no other Fisk's map names."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fisk_core.blockmap import BlockMap, owned_blocks
from fisk_core.model import Usage
from fisk_core.services.marking import has_data, mark

if TYPE_CHECKING:
    from fisk_core.catalog.fisks import Record
    from fisk_core.engine.context import Context

_LAYERS_AT_ONCE = 16


def usage(context: "Context", record: "Record") -> Usage:
    """Give the bytes of a Fisk, as of what was flushed; raises Corrupt."""
    with ExitStack() as stack:
        ours = _open(context, record, stack)
        owned = owned_blocks(ours)
        named = {ours.layers[alias] or "": count for alias, count in owned.items()}
        others = _sharing(context, record, set(named), stack)
        exclusive = _exclusive(ours, others, sorted(named))
    block = ours.block_size
    return Usage(record.size, sum(named.values()) * block, exclusive * block)


def _open(context: "Context", record: "Record", stack: ExitStack) -> BlockMap:
    block_map = context.load_map(record)
    stack.callback(block_map.close)
    return block_map


def _sharing(context: "Context", record: "Record", layers: set[str], stack: ExitStack) -> list[BlockMap]:
    """Open the maps, one of each content, of the other Fisks that name one of ``layers``."""
    others: dict[str, Record] = {}
    for other in context.records(record.pool):
        if other.id != record.id and other.readable_map:
            others.setdefault(other.readable_map, other)
    opened = [_open(context, other, stack) for other in others.values()]
    return [each for each in opened if not layers.isdisjoint(layer for layer in each.layers if layer)]


def _exclusive(ours: BlockMap, others: Sequence[BlockMap], layers: list[str]) -> int:
    total = 0
    for index in range(len(ours.segments)):
        if not has_data(ours, index):
            continue
        sharing = [other for other in others if has_data(other, index) and other.geometry == ours.geometry]
        for start in range(0, len(layers), _LAYERS_AT_ONCE):
            some = layers[start : start + _LAYERS_AT_ONCE]
            mine = mark([ours], some, index)
            if sharing:
                mine &= ~mark(sharing, some, index)
            total += int(mine.sum())
    return total

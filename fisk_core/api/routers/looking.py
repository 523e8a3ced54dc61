# SPDX-License-Identifier: Apache-2.0
"""Looking at Fisks: usage, where a byte lives, what differs, what came from what."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import Query

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import READER
from fisk_core.api.models import NAME, OffsetQuery, PageSize, RefInPath
from fisk_core.api.operation import Operations
from fisk_core.api.paging import page_size
from fisk_core.api.services import Given
from fisk_core.errors import LimitExceeded
from fisk_core.model import Extent, Fisk, Route, TreeNode, Usage

router = Operations("looking")

_MISSING = (errors.NotFound,)


@dataclass(frozen=True, slots=True)
class ExtentPage:
    """Some extents, ascending; ``next`` is the ``offset`` of the next page, null at the end."""

    extents: list[Extent]
    next: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """A Fisk of a tree, ``depth`` steps below its root."""

    fisk: Fisk
    depth: int


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees, each Fisk followed by what was made from it, oldest first.

    Not nested, because a thousand snapshots in a row would be a document a thousand levels deep.
    """

    nodes: list[Node]


@router.operation("GET", "/fisks/{ref}/usage", rule="fisks:get", role=READER, gives=Usage, may=_MISSING)
def get_usage(services: Given, ref: RefInPath) -> Usage:
    """Give the bytes a Fisk offers, names and alone names."""
    return services.engine.usage(ref)


@router.operation("GET", "/fisks/{ref}/route", rule="fisks:get", role=READER, gives=Route, may=_MISSING)
def get_route(services: Given, ref: RefInPath, offset: OffsetQuery = 0) -> Route:
    """Say where one byte of a Fisk lives."""
    return services.engine.route(ref, offset)


@router.operation("GET", "/fisks/{ref}/diff", rule="fisks:get", role=READER, gives=ExtentPage, may=_MISSING)
def get_diff(
    services: Given,
    ref: RefInPath,
    to: Annotated[str, Query(pattern=NAME, max_length=limits.MAX_REF)],
    limit: PageSize = None,
    offset: OffsetQuery = 0,
) -> ExtentPage:
    """Give the extents of ``to`` that may read differently from this Fisk, from ``offset`` on."""
    most = page_size(services, limit)
    found = list(islice(_clipped(services.engine.diff(ref, to), offset), most + 1))
    return ExtentPage(found[:most], found[most].offset if len(found) > most else None)


def _clipped(extents: Iterator[Extent], start: int) -> Iterator[Extent]:
    for each in extents:
        end = each.offset + each.length
        if end > start:
            first = max(each.offset, start)
            yield Extent(first, end - first, each.change)


@router.operation("GET", "/tree", rule="fisks:list", role=READER, gives=Forest)
def get_forest(services: Given) -> Forest:
    """Give the forest of all lineages; who lost its parent is a root."""
    return _flat(services.engine.tree())


@router.operation("GET", "/fisks/{ref}/tree", rule="fisks:get", role=READER, gives=Forest, may=_MISSING)
def get_tree(services: Given, ref: RefInPath) -> Forest:
    """Give the tree of a Fisk and what was made from it."""
    return _flat(services.engine.tree(ref))


def _flat(roots: list[TreeNode]) -> Forest:
    found: list[Node] = []
    waiting = [(root, 0) for root in reversed(roots)]
    while waiting:
        node, depth = waiting.pop()
        found.append(Node(node.fisk, depth))
        if len(found) > limits.MAX_TREE:
            raise LimitExceeded(f"more than {limits.MAX_TREE} Fisks: read /v1/fisks page by page")
        waiting += [(child, depth + 1) for child in reversed(node.children)]
    return Forest(found)

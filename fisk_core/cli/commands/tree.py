# SPDX-License-Identifier: Apache-2.0
"""``fisk tree``."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import HEADINGS, row
from fisk_core.units import format_size

if TYPE_CHECKING:
    from fisk_core.engine import TreeNode
    from fisk_core.model import Fisk

_BOXES = ("├── ", "└── ", "│   ", "    ")
_PLAIN = ("|-- ", "`-- ", "|   ", "    ")


class Tree(FiskLister):
    """Draw what was made from what.

    Lineage is for people: nothing depends on it, and whose parent was deleted stands at the left.  Other
    formats than the drawing list the Fisks in its order, each with its depth.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", nargs="?", help="Only the tree below this Fisk.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            self.roots = engine.tree(parsed_args.name)
        rows = ((depth, *row(fisk), fisk.parent_id) for depth, fisk in walk(self.roots))
        return ("Depth", *HEADINGS, "Parent ID"), rows

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        if parsed_args.formatter != self.formatter_default or parsed_args.columns:
            return super().produce_output(parsed_args, column_names, data)
        for line in table(list(branches(self.roots, boxes_for(self.app.stdout.encoding)))):
            self.app.stdout.write(f"{line}\n")
        return 0


def boxes_for(encoding: str | None) -> Sequence[str]:
    """Give what branches are drawn with where text is written in this encoding."""
    try:
        "".join(_BOXES).encode(encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN
    return _BOXES


def _words(fisk: "Fisk") -> tuple[str, ...]:
    return fisk.name, fisk.role, fisk.state.value, format_size(fisk.size)


def walk(roots: "Sequence[TreeNode]") -> "Iterator[tuple[int, Fisk]]":
    """Give (depth, Fisk), parents before children."""
    todo = [(0, node) for node in reversed(roots)]
    while todo:
        depth, node = todo.pop()
        yield depth, node.fisk
        todo += [(depth + 1, child) for child in reversed(node.children)]


def branches(
    roots: "Sequence[TreeNode]",
    boxes: Sequence[str] = _BOXES,
    words: "Callable[[Fisk], tuple[str, ...]]" = _words,
) -> Iterator[tuple[str, ...]]:
    """Give the words for every node, the first with its branches, depth first.

    Works without recursion: a lineage may be thousands deep.
    """
    fork, last, through, gap = boxes
    todo = [(node, "", "") for node in reversed(roots)]
    while todo:
        node, own, below = todo.pop()
        name, *more = words(node.fisk)
        yield (own + name, *more)
        children = node.children
        for number, child in enumerate(reversed(children)):
            is_last = number == 0
            todo.append((child, below + (last if is_last else fork), below + (gap if is_last else through)))


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Give one aligned line for each row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()

# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk tree``."""

import argparse
from collections.abc import Sequence
from typing import Any

from fisk_core.cli.base import FiskLister
from fisk_core.cli.commands import tree
from fisk_core.text import printable
from fisk_core.units import format_size
from fisk_openstack.cli.base import CloudCommand
from fisk_openstack.cli.columns import HEADINGS, row
from fisk_openstack.things import find_thing, things


class Tree(CloudCommand, FiskLister):
    """Draw what was made from what, across images, volumes, snapshots, backups and disks of servers.

    Lineage is for people: nothing depends on it, and whose parent was deleted stands at the left.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", nargs="?", help="Only the tree below this one.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        cloud = self.cloud()
        with self.engine() as engine:
            ref = find_thing(engine, parsed_args.name, cloud).id if parsed_args.name else None
            self.roots = engine.tree(ref)
        walked = list(tree.walk(self.roots))
        found = list(things((fisk for _, fisk in walked), cloud))
        self.things = {each.fisk.id: each for each in found}
        rows = [(depth, *row(each)) for (depth, _), each in zip(walked, found, strict=True)]
        return ("Depth", *HEADINGS), rows

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        if parsed_args.formatter != self.formatter_default or parsed_args.columns:
            return super().produce_output(parsed_args, column_names, data)
        boxes = tree.boxes_for(self.app.stdout.encoding)
        drawn = tree.branches(self.roots, boxes, self._words)
        for line in tree.table(list(drawn)):
            self.app.stdout.write(f"{line}\n")
        return 0

    def _words(self, fisk: Any) -> tuple[str, ...]:
        thing = self.things[fisk.id]
        return printable(thing.name) or "-", thing.kind, thing.own, format_size(fisk.size)

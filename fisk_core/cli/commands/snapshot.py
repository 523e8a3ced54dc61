# SPDX-License-Identifier: Apache-2.0
"""``fisk snapshot``."""

import argparse
from typing import Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import HEADINGS, row


class Snapshot(FiskLister):
    """Freeze what a Fisk holds now under a new name; it may be in use.

    Several Fisks at one point in time: fisk snapshot DATA=DATA-SNAP LOG=LOG-SNAP.  When every argument has
    a '=' they are taken as such pairs, split at the first one; a name that has one itself can be given by
    its id.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "words",
            metavar="NAME SNAPSHOT | NAME=SNAPSHOT",
            nargs="+",
            help="What to freeze, and the new name.",
        )
        parser.add_argument("--role", metavar="ROLE", help="Default snapshot.")
        arguments.add_attributes(parser, "A label to give it")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        words: list[str] = parsed_args.words
        labels = arguments.attributes(parsed_args.attribute)
        role = parsed_args.role
        if all("=" in word for word in words):
            pairs = [(ref, name) for ref, _, name in (word.partition("=") for word in words)]
        elif len(words) == 2:
            pairs = [(words[0], words[1])]
        else:
            self.misuse("write NAME SNAPSHOT for one, NAME=SNAPSHOT for each of several")
        with self.engine() as engine:
            if len(pairs) == 1:
                made = [engine.snapshot(*pairs[0], role=role or "snapshot", attributes=labels)]
            else:
                each = [labels for _ in pairs]
                made = engine.group_snapshot(pairs, role=role or "snapshot", attributes=each)
        return HEADINGS, [row(fisk) for fisk in made]

# SPDX-License-Identifier: Apache-2.0
"""``fisk clone``."""

import argparse
from typing import Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import HEADINGS, row


class Clone(FiskLister):
    """Make writable copies of a Fisk that share its blocks and depend on nothing."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("source", metavar="NAME", help="Name or id, of a frozen or a live Fisk.")
        parser.add_argument(
            "name", metavar="CLONE", help="Its name; with --count the clones are CLONE-1, CLONE-2 …"
        )
        parser.add_argument("--count", metavar="N", type=int, default=1, help="How many; default 1.")
        parser.add_argument("--size", metavar="SIZE", help="A larger size than the source has.")
        arguments.add_role(parser, "volume")
        arguments.add_attributes(parser, "A label to give each")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        size = arguments.optional_size(parsed_args.size)
        labels = arguments.attributes(parsed_args.attribute)
        with self.engine() as engine:
            made = engine.clone(
                parsed_args.source,
                parsed_args.name,
                count=parsed_args.count,
                role=parsed_args.role,
                size=size,
                attributes=labels,
            )
        return HEADINGS, [row(fisk) for fisk in made]

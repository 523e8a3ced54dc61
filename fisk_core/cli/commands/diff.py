# SPDX-License-Identifier: Apache-2.0
"""``fisk diff``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import Size


class Diff(FiskLister):
    """List the extents of the second Fisk that differ from the first

    Exact for Fisks of one lineage, where blocks of one owner are the same blocks.  Of unrelated Fisks all
    that either holds is listed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("old", metavar="OLD", help="Name or id.")
        parser.add_argument("new", metavar="NEW", help="Name or id.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            rows = [
                (extent.offset, Size(extent.length), extent.change.value)
                for extent in engine.diff(parsed_args.old, parsed_args.new)
            ]
        return ("Offset", "Length", "Change"), rows

# SPDX-License-Identifier: Apache-2.0
"""``fisk move``."""

import argparse
from typing import Any

from fisk_core.cli import progress
from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details


class Move(FiskShow):
    """Have a Fisk live in another pool, in use or not; its snapshots and clones stay where they are."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("pool", metavar="POOL", help="Where it goes.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        quiet = not self.app.options.verbose_level
        with (
            self.engine() as engine,
            progress.shown(self.app.stderr, parsed_args.name, quiet=quiet) as report,
        ):
            fisk = engine.move(parsed_args.name, parsed_args.pool, progress=report)
        return self.fields(details(fisk))

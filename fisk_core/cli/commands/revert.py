# SPDX-License-Identifier: Apache-2.0
"""``fisk revert``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details


class Revert(FiskShow):
    """Give a live Fisk the content of another, usually of its snapshot."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="The Fisk whose content changes.")
        parser.add_argument("to", metavar="SNAPSHOT", help="What it shall hold.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            fisk = engine.revert(parsed_args.name, parsed_args.to)
        return self.fields(details(fisk))

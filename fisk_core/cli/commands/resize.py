# SPDX-License-Identifier: Apache-2.0
"""``fisk resize``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details
from fisk_core.units import parse_size


class Resize(FiskShow):
    """Change the size of a live Fisk; what is new reads as zeros."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("size", metavar="SIZE", help="For example 10G, 512M or bytes.")
        parser.add_argument(
            "--shrink", action="store_true", help="Agree to lose what lies behind a smaller size."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        size = parse_size(parsed_args.size)
        with self.engine() as engine:
            fisk = engine.resize(parsed_args.name, size, shrink=parsed_args.shrink)
        return self.fields(details(fisk))

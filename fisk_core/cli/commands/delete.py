# SPDX-License-Identifier: Apache-2.0
"""``fisk delete``."""

import argparse

from fisk_core.cli.base import FiskCommand


class Delete(FiskCommand):
    """Delete Fisks: any of them, at any time, in any order; all or none."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", metavar="NAME", nargs="+", help="Names or ids.")
        parser.add_argument("--force", action="store_true", help="Stop what serves them first.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with self.engine() as engine:
            engine.delete(*parsed_args.names, force=parsed_args.force)

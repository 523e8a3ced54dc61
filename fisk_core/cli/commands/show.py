# SPDX-License-Identifier: Apache-2.0
"""``fisk show``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Size, Words, details


class Show(FiskShow):
    """Show a Fisk and what it takes.

    "referenced" are the bytes its map names; "exclusive" those that only it names, which is what deleting
    it gives back.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            fisk = engine.get(parsed_args.name)
            usage = engine.usage(fisk.id)
            uris = engine.served_at(fisk)
        taken = {"referenced": Size(usage.referenced), "exclusive": Size(usage.exclusive)}
        return self.fields({**details(fisk), **taken, "served_at": Words(uris)})

# SPDX-License-Identifier: Apache-2.0
"""``fisk show``."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Size, Words, details
from fisk_core.errors import NotFound

if TYPE_CHECKING:
    from fisk_core.engine import Engine
    from fisk_core.model import Fisk


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
            uris = _uris(engine, fisk)
        taken = {"referenced": Size(usage.referenced), "exclusive": Size(usage.exclusive)}
        return self.fields({**details(fisk), **taken, "served_at": Words(uris)})


def _uris(engine: "Engine", fisk: "Fisk") -> list[str]:
    """Give the NBD URIs of the worker that serves the Fisk now."""
    from fisk_core.dataplane import control

    try:
        return list(control.call(engine.home.control(fisk.id), {"op": "status"})["uris"])
    except NotFound:
        return []

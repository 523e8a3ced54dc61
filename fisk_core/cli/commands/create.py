# SPDX-License-Identifier: Apache-2.0
"""``fisk create``."""

import argparse
from typing import Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details
from fisk_core.units import parse_size


class Create(FiskShow):
    """Make an empty Fisk; it takes no space until written to."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("size", metavar="SIZE", help="For example 10G, 512M or bytes.")
        arguments.add_role(parser, "volume")
        arguments.add_pool(parser)
        arguments.add_attributes(parser, "A label to give it")
        arguments.add_geometry(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        size = parse_size(parsed_args.size)
        labels = arguments.attributes(parsed_args.attribute)
        shape = arguments.geometry(parsed_args)
        with self.engine() as engine:
            fisk = engine.create(
                parsed_args.name,
                size,
                pool=parsed_args.pool,
                role=parsed_args.role,
                attributes=labels,
                block_size=shape["block_size"],
                page_size=shape["page_size"],
            )
        return self.fields(details(fisk))

# SPDX-License-Identifier: Apache-2.0
"""``fisk route``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Text
from fisk_core.units import parse_size


class Route(FiskShow):
    """Say where a byte of a Fisk really lives."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("offset", metavar="OFFSET", help="Bytes, or for example 1M.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        offset = parse_size(parsed_args.offset)
        with self.engine() as engine:
            found = engine.route(parsed_args.name, offset)
        return self.fields(
            {
                "offset": found.offset,
                "layer_id": Text(found.layer_id),
                "pool": Text(found.pool),
                "path": Text(found.path),
                "file_offset": found.file_offset,
            }
        )

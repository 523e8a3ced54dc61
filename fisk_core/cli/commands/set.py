# SPDX-License-Identifier: Apache-2.0
"""``fisk set``."""

import argparse
from typing import Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details


class Set(FiskShow):
    """Change name, role or attributes of a Fisk, or freeze it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("fisk", metavar="NAME", help="Name or id.")
        parser.add_argument("--name", metavar="NEW", help="A new name.")
        parser.add_argument(
            "--role", metavar="ROLE", help="A new role; that is all it takes to make an image."
        )
        arguments.add_attributes(parser, "A label to give it")
        parser.add_argument(
            "--unset", metavar="KEY", action="append", default=[], help="A label to remove; may be repeated."
        )
        parser.add_argument("--freeze", action="store_true", help="Make it immutable, for ever.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        labels: dict[str, str | None] = dict.fromkeys(parsed_args.unset)
        labels.update(arguments.attributes(parsed_args.attribute))
        if not (labels or parsed_args.freeze or parsed_args.name or parsed_args.role):
            self.misuse("nothing to change was named")
        with self.engine() as engine:
            fisk = engine.set(
                parsed_args.fisk,
                name=parsed_args.name,
                role=parsed_args.role,
                attributes=labels or None,
                frozen=True if parsed_args.freeze else None,
            )
        return self.fields(details(fisk))

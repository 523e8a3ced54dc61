# SPDX-License-Identifier: Apache-2.0
"""``fisk list``."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import HEADINGS, Text, Time, labels, row

if TYPE_CHECKING:
    from fisk_core.model import Fisk
    from fisk_core.protocol import Verbs


class List(FiskLister):
    """List Fisks by name."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "pattern",
            metavar="PATTERN",
            nargs="?",
            help="Only names that match it; * and ? stand for others.",
        )
        parser.add_argument("--role", metavar="ROLE", help="Only these: image, volume, snapshot …")
        parser.add_argument("--state", choices=("live", "frozen"), help="Only these.")
        parser.add_argument("--pool", metavar="POOL", help="Only those stored there.")
        arguments.add_attributes(parser, "Only those with this label")
        parser.add_argument("--long", action="store_true", help="Also show parent, age and attributes.")
        return parser

    def matching(self, engine: "Verbs", parsed_args: argparse.Namespace, **labelled: str) -> "list[Fisk]":
        """Give what the arguments ask for, and has these labels besides."""
        return engine.list(
            role=parsed_args.role,
            state=parsed_args.state,
            pool=parsed_args.pool,
            attributes={**arguments.attributes(parsed_args.attribute), **labelled} or None,
            name=parsed_args.pattern,
        )

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            found = self.matching(engine, parsed_args)
        found.sort(key=lambda fisk: fisk.name)
        if not parsed_args.long:
            return HEADINGS, [row(fisk) for fisk in found]
        rows = [
            (*row(fisk), Text(fisk.parent_id), Time(fisk.created_at.isoformat()), labels(fisk.attributes))
            for fisk in found
        ]
        return (*HEADINGS, "Parent ID", "Created At", "Attributes"), rows

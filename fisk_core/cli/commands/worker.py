# SPDX-License-Identifier: Apache-2.0
"""``fisk worker …``: the processes that serve Fisks."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.columns import Size, Text


class List(FiskLister):
    """List the workers of the daemon's host; fisk top shows what they do."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            found = engine.workers()
            names = {each.id: each.name for each in engine.list()} if found else {}
        rows = []
        for each in found:
            metrics = each.get("metrics") or {}
            rows.append(
                (
                    names.get(each["fisk_id"], each["fisk_id"]),
                    each.get("pid"),
                    Text(each.get("version")),
                    each.get("read_only", False),
                    metrics.get("connections", 0),
                    Size((metrics.get("map") or {}).get("bytes", 0)),
                )
            )
        return ("Fisk", "PID", "Version", "Read Only", "Connections", "Map"), rows


class Upgrade(FiskShow):
    """Hand workers over to fresh ones of the installed version, without ending a connection."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", nargs="?", help="Only that of this Fisk; default all.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            return self.fields({"upgraded": engine.upgrade(parsed_args.name)})

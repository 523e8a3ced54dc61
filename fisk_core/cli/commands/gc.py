# SPDX-License-Identifier: Apache-2.0
"""``fisk gc``."""

import argparse
from typing import Any

from fisk_core.cli import progress
from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Size, labels


class Collect(FiskShow):
    """Give back the space of blocks nobody points to any more.

    Layers that cannot be looked at now are left for the next time: "skipped" says which and why.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be given back.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        quiet = not self.app.options.verbose_level
        with self.engine() as engine, progress.shown(self.app.stderr, "collect", quiet=quiet) as meter:
            report = engine.collect(dry_run=parsed_args.dry_run, progress=meter)
        return self.fields(
            {
                "reclaimed": Size(report.reclaimed),
                "layers": report.layers,
                "skipped": labels(report.skipped),
                "dry_run": report.dry_run,
            }
        )

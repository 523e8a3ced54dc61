# SPDX-License-Identifier: Apache-2.0
"""``fisk check`` and ``fisk scrub``: is everything as it should be?"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fisk_core.cli import progress
from fisk_core.cli.base import FiskLister
from fisk_core.errors import Corrupt
from fisk_core.units import format_size

if TYPE_CHECKING:
    from fisk_core.services.check import Problem

_HEADINGS = ("Severity", "Kind", "Subject", "Message", "Repaired")


def _rows(problems: "Sequence[Problem]") -> list[tuple[Any, ...]]:
    return [(each.severity.value, each.kind, each.subject, each.message, each.repaired) for each in problems]


class Check(FiskLister):
    """Verify every promise the catalog and the pools make.

    Exit status 8 when an error is left.  Something nobody names takes space and harms nothing: a warning.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--repair", action="store_true", help="Repair what can be without losing data.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        quiet = not self.app.options.verbose_level
        with (
            self.engine() as engine,
            progress.shown(self.app.stderr, "check", quiet=quiet, counts=True) as meter,
        ):
            report = engine.check(repair=parsed_args.repair, progress=meter)
        repaired = sum(each.repaired for each in report.problems)
        self.status = 0 if report.ok else Corrupt.exit_status
        self.say(
            f"{report.fisks} Fisks, {report.maps} maps, {report.layers} layers: {len(report.errors)} errors, "
            f"{len(report.warnings)} warnings" + (f", {repaired} repaired" if repaired else "")
        )
        return _HEADINGS, _rows(report.problems)


class Scrub(FiskLister):
    """Read everything back and compare it with its checksums.

    Exit status 8 when something is damaged.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", metavar="NAME", nargs="*", help="Only these Fisks; default all.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        quiet = not self.app.options.verbose_level
        with self.engine() as engine, progress.shown(self.app.stderr, "scrub", quiet=quiet) as meter:
            report = engine.scrub(*parsed_args.names, progress=meter)
        self.status = 0 if report.ok else Corrupt.exit_status
        self.say(
            f"{report.maps} maps, {report.layers} layers, {format_size(report.bytes_read)} read, "
            f"{format_size(report.bytes_compared)} compared with checksums: {len(report.problems)} problems"
        )
        return _HEADINGS, _rows(report.problems)

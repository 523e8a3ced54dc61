# SPDX-License-Identifier: Apache-2.0
"""``fisk pool …``."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments, progress
from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.columns import Size, Words, labels
from fisk_core.errors import Corrupt

if TYPE_CHECKING:
    from fisk_core.engine import PoolInfo


def _details(pool: "PoolInfo") -> dict[str, Any]:
    return {
        "name": pool.name,
        "id": pool.id,
        "driver": pool.driver,
        "options": labels(pool.options),
        "total": Size(pool.total),
        "free": Size(pool.free),
    }


class Create(FiskShow):
    """Make a pool: a place where blocks are kept."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--driver", metavar="DRIVER", default="file", help="Default file.")
        _add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        options = _options(parsed_args)
        with self.engine() as engine:
            return self.fields(_details(engine.create_pool(parsed_args.name, parsed_args.driver, options)))


class List(FiskLister):
    """List pools."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            found = engine.pools()
        rows = [(each.name, each.id, each.driver, Size(each.total), Size(each.free)) for each in found]
        return ("Name", "ID", "Driver", "Total", "Free"), sorted(rows, key=lambda row: row[0])


class Show(FiskShow):
    """Show a pool."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            return self.fields(_details(engine.pool(parsed_args.name)))


class Set(FiskShow):
    """Change options of a pool; workers that run go on with those they began with."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--option",
            metavar="KEY=VALUE",
            action="append",
            required=True,
            help="Of a file pool classes or prealloc; may be repeated.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        options = arguments.attributes(parsed_args.option)
        with self.engine() as engine:
            return self.fields(_details(engine.set_pool(parsed_args.name, options)))


class Rescan(FiskShow):
    """Take what a pool holds over into the catalog: after the catalog was lost, or on another host."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--driver", metavar="DRIVER", default="file", help="Default file.")
        parser.add_argument(
            "--force",
            action="store_true",
            help="Add to what the catalog has of this pool; leave out what cannot be read.",
        )
        _add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        options = _options(parsed_args)
        quiet = not self.app.options.verbose_level
        with (
            self.engine() as engine,
            progress.shown(self.app.stderr, "rescan", quiet=quiet, counts=True) as meter,
        ):
            report = engine.rescan(
                parsed_args.name,
                driver=parsed_args.driver,
                options=options,
                force=parsed_args.force,
                progress=meter,
            )
        self.status = Corrupt.exit_status if report.damaged else 0
        return self.fields(
            {
                "pool": report.pool,
                "fisks": Words(report.fisks),
                "recovered": Words(report.recovered),
                "damaged": Words(report.damaged),
            }
        )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", metavar="DIRECTORY", help="Of a file pool; default in the home directory.")
    parser.add_argument(
        "--option", metavar="KEY=VALUE", action="append", default=[], help="For the driver; may be repeated."
    )


def _options(parsed_args: argparse.Namespace) -> dict[str, str]:
    options = arguments.attributes(parsed_args.option)
    if parsed_args.path:
        options["path"] = parsed_args.path
    return options

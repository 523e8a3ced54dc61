# SPDX-License-Identifier: Apache-2.0
"""``fisk download``."""

import argparse
import sys
from pathlib import PurePath

from fisk_core.cli import progress
from fisk_core.cli.base import FiskCommand
from fisk_core.errors import InvalidValue

_SUFFIXES = {f".{name}": name for name in ("qcow2", "vmdk", "vdi", "vhd", "vhdx", "qed")}


class Download(FiskCommand):
    """Write a Fisk to a file or to standard output."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("target", metavar="FILE", help="A new file; - is standard output.")
        parser.add_argument(
            "--format",
            "--disk-format",
            dest="disk_format",
            metavar="FORMAT",
            help="raw, qcow2, vmdk, vhd, vhdx, vdi or qed; default what the suffix of FILE says, else raw.",
        )
        parser.add_argument("--compress", action="store_true", help="Make a smaller file (qcow2, vmdk).")
        parser.add_argument("--overwrite", action="store_true", help="Replace FILE if it exists.")
        parser.add_argument(
            "--on-server",
            action="store_true",
            help="FILE is a path on the daemon's host, below a directory it allows; the daemon does it all.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        target = parsed_args.target
        if target == "-" and parsed_args.on_server:
            self.misuse("the daemon cannot write to our standard output; name a file of its host")
        if target == "-" and sys.stdout.isatty():
            raise InvalidValue("standard output is a terminal; redirect it or name a file")
        disk_format = parsed_args.disk_format or _SUFFIXES.get(PurePath(target).suffix.lower(), "raw")
        quiet = not self.app.options.verbose_level
        options = {"on_server": True} if parsed_args.on_server else {}
        with (
            self.daemon() if parsed_args.on_server else self.engine() as engine,
            progress.shown(self.app.stderr, parsed_args.name, quiet=quiet) as report,
        ):
            engine.download(
                parsed_args.name,
                target,
                format=disk_format,
                compress=parsed_args.compress,
                overwrite=parsed_args.overwrite,
                progress=report,
                **options,
            )

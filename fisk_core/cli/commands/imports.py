# SPDX-License-Identifier: Apache-2.0
"""``fisk import``."""

import argparse
import sys
from typing import Any

from fisk_core.cli import arguments, progress
from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import details
from fisk_core.errors import InvalidValue


class Import(FiskShow):
    """Make a Fisk from an image file or from standard input.

    The format is recognised: raw, qcow2, vmdk, vhd, vhdx, vdi, qed and iso.  What is stored is raw blocks,
    without holes and zeros.
    """

    conflict_handler = "resolve"
    """``--format`` is the image's here; the output's is ``-f``"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("source", metavar="FILE", help="An image file; - is standard input.")
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--format",
            "--disk-format",
            dest="disk_format",
            metavar="FORMAT",
            help="Refuse the image unless it has this format; raw believes anything.",
        )
        parser.add_argument("--live", action="store_true", help="Make a writable Fisk, of role volume.")
        parser.add_argument("--role", metavar="ROLE", help="Default image, or volume with --live.")
        parser.add_argument(
            "--keep-original",
            action="store_true",
            help="Keep the very bytes of the file too, as a second Fisk NAME.original.",
        )
        parser.add_argument(
            "--size", metavar="SIZE", help="How long standard input will be, for the progress bar only."
        )
        parser.add_argument(
            "--on-server",
            action="store_true",
            help="FILE is a path on the daemon's host, below a directory it allows; the daemon does it all.",
        )
        arguments.add_pool(parser)
        arguments.add_attributes(parser, "A label to give it")
        arguments.add_geometry(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        if parsed_args.source == "-" and parsed_args.on_server:
            self.misuse("the daemon cannot read our standard input; name a file of its host")
        if parsed_args.source == "-" and sys.stdin.isatty():
            raise InvalidValue("standard input is a terminal; redirect an image into this command")
        options = {
            "format": parsed_args.disk_format,
            "role": parsed_args.role or ("volume" if parsed_args.live else "image"),
            "frozen": not parsed_args.live,
            "pool": parsed_args.pool,
            "keep_original": parsed_args.keep_original,
            "size": arguments.optional_size(parsed_args.size),
            "attributes": arguments.attributes(parsed_args.attribute),
            **arguments.geometry(parsed_args),
        }
        quiet = not self.app.options.verbose_level
        if parsed_args.on_server:
            options["on_server"] = True
        with (
            self.daemon() if parsed_args.on_server else self.engine() as engine,
            progress.shown(self.app.stderr, parsed_args.name, quiet=quiet) as report,
        ):
            fisk = engine.import_image(parsed_args.source, parsed_args.name, progress=report, **options)
        return self.fields(details(fisk))

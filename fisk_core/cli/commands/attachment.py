# SPDX-License-Identifier: Apache-2.0
"""``fisk attach``, ``fisk detach`` and ``fisk attachment …``."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskCommand, FiskLister, FiskShow
from fisk_core.cli.columns import Text, Time, Words
from fisk_core.errors import InvalidValue, NotFound

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.model import Attachment


def _details(attachment: "Attachment") -> dict[str, Any]:
    return {
        "id": attachment.id,
        "fisk_id": attachment.fisk_id,
        "host": attachment.host,
        "access": attachment.access,
        "read_only": attachment.read_only,
        "consumer": Text(attachment.consumer or None),
        "path": Text(attachment.path),
        "incoming": attachment.incoming,
        "uris": Words(list(attachment.uris)),
        "created_at": Time(attachment.created_at.isoformat()),
    }


class Attach(FiskShow):
    """Have a Fisk served on the daemon's host, and say every way to reach it.

    The daemon keeps it served, also across its own restarts, until it is detached.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument(
            "--as",
            dest="access",
            metavar="WAY",
            default="nbd",
            help="nbd, direct (a file without us in the way), file, block (a device), iscsi; default nbd.",
        )
        parser.add_argument("--read-only", action="store_true", help="A frozen Fisk can only be read.")
        parser.add_argument("--consumer", metavar="TEXT", default="", help="Who uses it, for people.")
        parser.add_argument(
            "--steal", action="store_true", help="Take it over from another host, whose writing ends."
        )
        parser.add_argument(
            "--incoming",
            action="store_true",
            help="For a guest that moves here: wait for its first write, while another host has the Fisk.",
        )
        parser.add_argument("--id", metavar="ID", help="Of the attachment; with it this can be repeated.")
        parser.add_argument(
            "--option", metavar="KEY=VALUE", action="append", default=[], help="For the way to reach it."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        options = arguments.attributes(parsed_args.option)
        with self.daemon() as engine:
            fisk = engine.get(parsed_args.name)
            found = engine.attach(
                fisk.id,
                read_only=parsed_args.read_only or fisk.frozen,
                access=parsed_args.access,
                consumer=parsed_args.consumer,
                id=parsed_args.id,
                steal=parsed_args.steal,
                incoming=parsed_args.incoming,
                options=options or None,
            )
        return self.fields(_details(found))


class Detach(FiskCommand):
    """End an attachment: what was written is durable then.

    It is given by its id, or by the name of a Fisk that has just one.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", metavar="ID|NAME", nargs="+")
        parser.add_argument("--force", action="store_true", help="Also where it is in use.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with self.daemon() as engine:
            for found in [_find(engine, name) for name in parsed_args.names]:
                engine.detach(found.id, force=parsed_args.force)


def _find(engine: "RemoteEngine", name: str) -> "Attachment":
    """Give an attachment by its id, or that of a Fisk; raises NotFound, InvalidValue when it has several."""
    every = engine.attachments()
    for each in every:
        if each.id == name:
            return each
    fisk = engine.get(name)
    found = [each for each in every if each.fisk_id == fisk.id]
    if not found:
        raise NotFound(f"Fisk '{fisk.name}' is not attached")
    if len(found) > 1:
        raise InvalidValue(f"Fisk '{fisk.name}' has {len(found)} attachments; say which one by its id")
    return found[0]


class Promote(FiskShow):
    """Have what was attached with --incoming write now: the other host lets go, all being durable."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", metavar="ID", help="Of the attachment that waits.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            return self.fields(_details(engine.promote(parsed_args.id)))


class List(FiskLister):
    """List the attachments of all hosts."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", nargs="?", help="Only those of this Fisk.")
        parser.add_argument("--host", metavar="HOST", help="Only those on it.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            fisk = engine.get(parsed_args.name).id if parsed_args.name else None
            found = engine.attachments(fisk=fisk, host=parsed_args.host)
            names = {each.id: each.name for each in engine.list()}
        rows = [
            (
                each.id,
                names.get(each.fisk_id, each.fisk_id),
                each.host,
                each.access,
                each.read_only,
                Text(each.consumer or None),
                Text(each.path or next(iter(each.uris), None)),
            )
            for each in found
        ]
        return ("ID", "Fisk", "Host", "Access", "Read Only", "Consumer", "Where"), rows


class Show(FiskShow):
    """Show an attachment, with every way to reach the Fisk."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="ID|NAME", help="Its id, or a Fisk that has just one.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            return self.fields(_details(_find(engine, parsed_args.name)))

# SPDX-License-Identifier: Apache-2.0
"""``fisk lock …``: who may touch which bytes of a Fisk that several use."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.by_id import ForEach
from fisk_core.cli.columns import Size, Text, Time
from fisk_core.units import parse_size

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.model import RangeLock


def _details(lock: "RangeLock") -> dict[str, Any]:
    return {
        "id": lock.id,
        "fisk_id": lock.fisk_id,
        "offset": lock.offset,
        "length": Size(lock.length),
        "shared": lock.shared,
        "owner": Text(lock.owner or None),
        "expires": Time(lock.expires.isoformat()),
    }


class Acquire(FiskShow):
    """Lock some bytes of a Fisk; nothing enforces it, all who share the Fisk have to ask."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("offset", metavar="OFFSET", help="Bytes, or for example 1M.")
        parser.add_argument("length", metavar="LENGTH", help="Bytes, or for example 1M.")
        parser.add_argument("--shared", action="store_true", help="With others that are shared too.")
        parser.add_argument("--owner", metavar="TEXT", default="", help="Who has it, for people.")
        parser.add_argument("--ttl", metavar="TIME", default="30s", help="When it ends; default 30s.")
        parser.add_argument("--wait", metavar="TIME", default="0s", help="How long to wait for it.")
        parser.add_argument("--id", metavar="ID", help="With it this can be repeated, which renews the lock.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            lock = engine.locks.acquire(
                parsed_args.name,
                parse_size(parsed_args.offset),
                parse_size(parsed_args.length),
                shared=parsed_args.shared,
                owner=parsed_args.owner,
                ttl=arguments.duration(parsed_args.ttl),
                wait=arguments.duration(parsed_args.wait),
                id=parsed_args.id,
            )
        return self.fields(_details(lock))


class Release(ForEach):
    """End locks; one that has ended already is fine."""

    def act(self, engine: "RemoteEngine", id: str) -> None:
        engine.locks.release(id)


class List(FiskLister):
    """List the locks of a Fisk."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            found = engine.locks.list(parsed_args.name)
        rows = [
            (each.id, each.offset, Size(each.length), each.shared, Text(each.owner or None),
             Time(each.expires.isoformat()))
            for each in found
        ]  # fmt: skip
        return ("ID", "Offset", "Length", "Shared", "Owner", "Expires"), rows

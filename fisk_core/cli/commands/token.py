# SPDX-License-Identifier: Apache-2.0
"""``fisk token …``: who may come in over TCP."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.by_id import ForEach
from fisk_core.cli.columns import Text, Time

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine


class Create(FiskShow):
    """Make a token; its secret is shown now and never again."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Whose it is.")
        parser.add_argument("role", choices=("reader", "operator", "admin"), help="What it is good for.")
        parser.add_argument("--expire", metavar="TIME", help="When it ends, for example 90d; default never.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        seconds = arguments.optional_duration(parsed_args.expire)
        with self.daemon() as engine:
            token, secret = engine.tokens.create(parsed_args.name, parsed_args.role, seconds=seconds)
        expires = token.expires.isoformat() if token.expires else None
        return self.fields(
            {
                "id": token.id,
                "name": token.name,
                "role": token.role,
                "expires": Time(expires) if expires else Text(None),
                "secret": secret,
            }
        )


class List(FiskLister):
    """List tokens."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            found = engine.tokens.list()
        rows = [
            (each.name, each.id, each.role, Time(each.created_at.isoformat()),
             Time(each.expires.isoformat()) if each.expires else Text(None))
            for each in found
        ]  # fmt: skip
        return ("Name", "ID", "Role", "Created At", "Expires"), rows


class Delete(ForEach):
    """Remove tokens: nobody comes in with them any more."""

    named: ClassVar[Mapping[str, Any]] = {"metavar": "NAME", "help": "Names or ids."}

    def act(self, engine: "RemoteEngine", id: str) -> None:
        engine.tokens.delete(id)

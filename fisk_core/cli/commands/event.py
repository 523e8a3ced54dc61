# SPDX-License-Identifier: Apache-2.0
"""``fisk event …``: what happened, and what happens."""

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import Text, Time, labels

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.model import Event


class List(FiskLister):
    """List what happened; with --follow go on as it happens, one line each, until stopped.

    With --follow and -f json each line is a JSON object.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--follow", action="store_true", help="Go on with what happens.")
        parser.add_argument(
            "--after",
            metavar="N",
            type=int,
            help="Begin after this number; default the beginning, or now with --follow.",
        )
        parser.add_argument(
            "--kind", metavar="KIND", help="Only these, such as fisk.created, or fisk for all of it."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            if parsed_args.follow:
                self._follow(engine, parsed_args)
            from fisk_core.client.events import recent

            rows = [
                (each.num, Time(each.at.isoformat()), each.kind, Text(each.fisk_id), labels(each.data))
                for each in _wanted(recent(engine.transport, parsed_args.after or 0), parsed_args.kind)
            ]
        return ("Number", "Time", "Kind", "Fisk ID", "Data"), rows

    def _follow(self, engine: "RemoteEngine", parsed_args: argparse.Namespace) -> NoReturn:
        write = _as_json if parsed_args.formatter == "json" else _as_line
        for each in _wanted(engine.events(parsed_args.after), parsed_args.kind):
            self.app.stdout.write(write(each) + "\n")
            self.app.stdout.flush()
        raise AssertionError("not reached")


def _wanted(events: "Iterator[Event]", kind: str | None) -> "Iterator[Event]":
    return (each for each in events if kind is None or each.kind == kind or each.kind.startswith(f"{kind}."))


def _as_json(event: "Event") -> str:
    told = {"num": event.num, "kind": event.kind, "at": event.at.isoformat()}
    return json.dumps({**told, "fisk_id": event.fisk_id, "data": dict(event.data)})


def _as_line(event: "Event") -> str:
    data = labels(event.data).human_readable()
    moment = Time(event.at.isoformat()).human_readable()
    return f"{moment}  {event.num}  {event.kind}  {event.fisk_id or '-'}  {data}".rstrip()

# SPDX-License-Identifier: Apache-2.0
"""``fisk schedule …``: snapshots taken by themselves."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments
from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.by_id import ForEach, ShowById
from fisk_core.cli.columns import Seconds, Text, Time, labels

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.model import Retention, Schedule

_KEPT = {
    "last": "N newest",
    "hourly": "newest of each of N hours",
    "daily": "newest of each of N days",
    "weekly": "newest of each of N weeks",
}


def _kept(retention: "Retention") -> dict[str, int]:
    return {key: number for key in _KEPT if (number := getattr(retention, key))}


def _details(schedule: "Schedule") -> dict[str, Any]:
    expire = Text(None) if schedule.expire is None else Seconds(schedule.expire)
    return {
        "id": schedule.id,
        "fisk_id": schedule.fisk_id,
        "interval": Seconds(schedule.interval),
        "keep": labels(_kept(schedule.retention)),
        "prefix": schedule.prefix,
        "expire": expire,
        "expendable": schedule.expendable,
        "enabled": schedule.enabled,
        "next_run": Time(schedule.next_run.isoformat()),
        "created_at": Time(schedule.created_at.isoformat()),
    }


def _add_options(parser: argparse.ArgumentParser) -> None:
    for key, which in _KEPT.items():
        parser.add_argument(f"--keep-{key}", metavar="N", type=int, help=f"Keep the {which}.")
    parser.add_argument(
        "--name-prefix", metavar="WORD", help="What its snapshots' names begin with; default auto."
    )
    parser.add_argument("--expire", metavar="TIME", help="How old a snapshot gets at most, or never.")
    parser.add_argument(
        "--expendable",
        action=argparse.BooleanOptionalAction,
        help="Its snapshots may be removed when the pool runs full.",
    )


def _given(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """Give what was said of prefix, expiry and so on."""
    found = {"prefix": parsed_args.name_prefix, "expendable": parsed_args.expendable}
    found = {key: value for key, value in found.items() if value is not None}
    if parsed_args.expire is not None:
        found["expire"] = None if parsed_args.expire == "never" else arguments.duration(parsed_args.expire)
    return found


def _retention(parsed_args: argparse.Namespace, before: "Retention | None" = None) -> "Retention | None":
    """Give what shall be kept: of ``before`` what is not said anew; None when nothing is said."""
    from dataclasses import replace

    from fisk_core.model import Retention

    said = {key: getattr(parsed_args, f"keep_{key}") for key in _KEPT}
    said = {key: number for key, number in said.items() if number is not None}
    return replace(before or Retention(), **said) if said else None


class Create(FiskShow):
    """Have a snapshot of a Fisk taken regularly."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id of the Fisk.")
        parser.add_argument("interval", metavar="TIME", help="For example 15m, 1h or 1d.")
        _add_options(parser)
        parser.add_argument("--disabled", action="store_true", help="Begin when it is enabled.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        interval = arguments.duration(parsed_args.interval)
        with self.daemon() as engine:
            made = engine.schedules.create(
                parsed_args.name,
                interval,
                retention=_retention(parsed_args),
                enabled=not parsed_args.disabled,
                **_given(parsed_args),
            )
        return self.fields(_details(made))


class List(FiskLister):
    """List schedules."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", nargs="?", help="Only those of this Fisk.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            found = engine.schedules.list(parsed_args.name)
            names = {each.id: each.name for each in engine.list()}
        rows = [
            (each.id, names.get(each.fisk_id, each.fisk_id), Seconds(each.interval),
             labels(_kept(each.retention)), each.enabled, Time(each.next_run.isoformat()))
            for each in found
        ]  # fmt: skip
        return ("ID", "Fisk", "Interval", "Keep", "Enabled", "Next Run"), rows


class Show(ShowById):
    """Show a schedule."""

    def find(self, engine: "RemoteEngine", id: str) -> dict[str, Any]:
        return _details(engine.schedules.get(id))


class Set(FiskShow):
    """Change a schedule; another interval counts from now on."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", metavar="ID")
        parser.add_argument("--interval", metavar="TIME", help="For example 15m, 1h or 1d.")
        _add_options(parser)
        parser.add_argument("--enabled", action=argparse.BooleanOptionalAction, help="Whether it runs.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        changes = _given(parsed_args)
        if parsed_args.interval is not None:
            changes["interval"] = arguments.duration(parsed_args.interval)
        if parsed_args.enabled is not None:
            changes["enabled"] = parsed_args.enabled
        with self.daemon() as engine:
            before = engine.schedules.get(parsed_args.id)
            if (retention := _retention(parsed_args, before.retention)) is not None:
                changes["retention"] = retention
            if not changes:
                self.misuse("nothing to change was named")
            return self.fields(_details(engine.schedules.set(parsed_args.id, **changes)))


class Delete(ForEach):
    """End schedules; their snapshots stay."""

    def act(self, engine: "RemoteEngine", id: str) -> None:
        engine.schedules.delete(id)

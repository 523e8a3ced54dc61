# SPDX-License-Identifier: Apache-2.0
"""``fisk qos …``: limits and class of a Fisk, which are attributes of it."""

import argparse
from collections.abc import Mapping
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Size, Text
from fisk_core.errors import InvalidValue
from fisk_core.units import parse_size

_LIMITS = tuple(f"{what}_{unit}" for unit in ("iops", "bytes") for what in ("read", "write", "total"))
KEYS = tuple(f"{key}{burst}" for key in _LIMITS for burst in ("", "_burst"))
_CLASSES = ("latency", "throughput", "background", "scratch")
_NONE = "none"


def _shown(attributes: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"class": Text(attributes.get("class"))}
    for key in KEYS:
        value = attributes.get(f"qos.{key}")
        if value is None:
            found[key] = Text(None)
        else:
            found[key] = Size(int(value)) if "bytes" in key else int(value)
    return found


class Set(FiskShow):
    """Limit what a Fisk may do, and say what it is used for; takes effect at once, in use or not.

    A burst is how much may be saved up while nothing is done.  "none" takes a limit, or the class, away.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("--class", dest="kind", choices=(*_CLASSES, _NONE), help="What it is used for.")
        for key in KEYS:
            words = key.replace("_", "-")
            unit = "bytes, for example 100M" if "bytes" in key else "operations"
            per = "saved up at most" if key.endswith("burst") else "a second"
            parser.add_argument(f"--{words}", metavar="N", help=f"{unit} {per}, or none.".capitalize())
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        changes: dict[str, str | None] = {}
        if parsed_args.kind is not None:
            changes["class"] = None if parsed_args.kind == _NONE else parsed_args.kind
        for key in KEYS:
            text = getattr(parsed_args, key)
            if text is not None:
                changes[f"qos.{key}"] = None if text == _NONE else str(_number(key, text))
        if not changes:
            self.misuse("nothing to change was named")
        with self.engine() as engine:
            fisk = engine.set(parsed_args.name, attributes=changes)
        return self.fields(_shown(fisk.attributes))


def _number(key: str, text: str) -> int:
    number = parse_size(text)
    if number < 1:
        raise InvalidValue(f"{key} must be at least 1, or none")
    return number


class Show(FiskShow):
    """Show the limits and the class of a Fisk."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            return self.fields(_shown(engine.get(parsed_args.name).attributes))

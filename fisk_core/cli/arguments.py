# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, and how their values are read."""

import argparse
from collections.abc import Iterable

from fisk_core.errors import InvalidValue
from fisk_core.units import parse_size


def add_attributes(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument(
        "--attribute", metavar="KEY=VALUE", action="append", default=[], help=f"{purpose}; may be repeated."
    )


def add_role(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--role",
        metavar="ROLE",
        default=default,
        help=f"What it is to you: image, volume, snapshot, disk or a word of your own; default {default}.",
    )


def add_pool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", metavar="POOL", help="Where its data goes; default the default pool.")


def add_geometry(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "geometry", "fixed for the life of a Fisk; the defaults are meant to fit"
    )
    group.add_argument(
        "--block-size",
        metavar="SIZE",
        default="4K",
        help="Bytes whose owner is recorded together; default 4K.",
    )
    group.add_argument(
        "--page-size", metavar="SIZE", default="4M", help="Bytes of one page of the block map; default 4M."
    )


def geometry(arguments: argparse.Namespace) -> dict[str, int]:
    """Give the geometry as the engine wants it; raises InvalidValue."""
    return {"block_size": parse_size(arguments.block_size), "page_size": parse_size(arguments.page_size)}


def optional_size(text: str | None) -> int | None:
    return None if text is None else parse_size(text)


def attributes(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` words; raises InvalidValue."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidValue(f"'{pair}' is not an attribute; write KEY=VALUE")
        found[key] = value
    return found


_MAX_DIGITS = 12
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration(text: str) -> int:
    """Read ``90``, ``15m``, ``1h``, ``7d`` or ``2w``; gives seconds, raises InvalidValue."""
    number, unit = (text[:-1], text[-1:]) if text[-1:].lower() in _SECONDS else (text, "s")
    if not number.isdecimal() or len(number) > _MAX_DIGITS:
        raise InvalidValue(f"'{text}' is not a time; write for example 30s, 15m, 1h, 7d or 2w")
    return int(number) * _SECONDS[unit.lower()]


def optional_duration(text: str | None) -> int | None:
    return None if text is None else duration(text)

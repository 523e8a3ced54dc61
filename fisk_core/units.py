# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write them: ``10G``, ``1.5TiB``, ``4096``."""

import re

from fisk_core.errors import InvalidValue

MAX_SIZE = 64 << 40
"""Bytes a Fisk may have (64 TiB)."""

_SIZE = re.compile(r"^\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([KMGTPE]?)(?:i?B)?\s*$", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def parse_size(text: str) -> int:
    """Give the bytes that ``text`` says, in powers of 1024; raises InvalidValue."""
    match = _SIZE.match(text)
    if not match:
        raise InvalidValue(f"'{text}' is not a size; write for example 10G, 512M or 4096")
    number, unit = match.groups()
    factor = 1 << 10 * _POWERS[unit.upper()]
    value = int(number) * factor if "." not in number else round(float(number) * factor)
    return value


def format_size(value: int | float) -> str:
    """Give ``value`` bytes for people: ``"1.5 GiB"``; exact below 1 KiB."""
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"

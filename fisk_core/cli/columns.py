# SPDX-License-Identifier: Apache-2.0
"""How values look: for people in tables, exact for programs in every other format."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from fisk_core.text import printable
from fisk_core.units import format_size

if TYPE_CHECKING:
    from fisk_core.model import Fisk

_UNITS = ((7 * 86400, "w"), (86400, "d"), (3600, "h"), (60, "min"))
HEADINGS = ("Name", "ID", "Role", "State", "Size", "Pool")


class Size(FormattableColumn[int]):
    """Bytes."""

    def human_readable(self) -> str:
        return format_size(self._value)


class Text(FormattableColumn[str | None]):
    """A word that may be missing."""

    def human_readable(self) -> str:
        return printable(self._value) if self._value else "-"


class Labels(FormattableColumn[dict[str, Any]]):
    """Keys and values."""

    def human_readable(self) -> str:
        return printable(", ".join(f"{key}={value}" for key, value in sorted(self._value.items())))


class Words(FormattableColumn[list[str]]):
    """Several words, one a line for people."""

    def human_readable(self) -> str:
        return "\n".join(map(printable, self._value))


def shown(value: Any) -> Any:
    """Give a cell that people can be shown: text that does more than to be read becomes Text."""
    return Text(value) if isinstance(value, str) and not value.isprintable() else value


class Time(FormattableColumn[str]):
    """A moment: ISO 8601 for programs, local time to the second for people."""

    def human_readable(self) -> str:
        return datetime.fromisoformat(self._value).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Seconds(FormattableColumn[int]):
    """A length of time."""

    def human_readable(self) -> str:
        for unit, name in _UNITS:
            if self._value >= unit and not self._value % unit:
                return f"{self._value // unit} {name}"
        return f"{self._value} s"


def row(fisk: "Fisk") -> tuple[Any, ...]:
    """Give the values under ``HEADINGS``."""
    return fisk.name, fisk.id, fisk.role, fisk.state.value, Size(fisk.size), fisk.pool


def details(fisk: "Fisk") -> dict[str, Any]:
    """Give everything a Fisk says of itself."""
    return {
        "name": fisk.name,
        "id": fisk.id,
        "role": fisk.role,
        "state": fisk.state.value,
        "size": Size(fisk.size),
        "pool": fisk.pool,
        "parent_id": Text(fisk.parent_id),
        "created_at": Time(fisk.created_at.isoformat()),
        "block_size": Size(fisk.block_size),
        "page_size": Size(fisk.page_size),
        "attributes": Labels(dict(fisk.attributes)),
    }


def labels(values: Mapping[str, Any]) -> Labels:
    return Labels(dict(values))

# SPDX-License-Identifier: Apache-2.0
"""``fisk map``."""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import Size, Words
from fisk_core.errors import InvalidValue
from fisk_core.units import format_size

if TYPE_CHECKING:
    from rich.text import Text

    from fisk_core.cli.picture import LayerShare, Picture
    from fisk_core.model import Fisk

_COLOURS = ("green", "cyan", "yellow", "magenta", "blue", "red")
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Map(FiskLister):
    """Draw which layer owns what.

    One cell for each slice of the address space, in the letter of the layer that owns most of it: upper
    case if at least half, else lower case; "." is a hole.  Below, each layer with the bytes it owns here
    and the Fisks whose own period it was.  Other formats than the picture list the layers.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument("--width", metavar="N", type=int, help="Columns to use; default the terminal's.")
        parser.add_argument(
            "--rows", metavar="N", type=int, default=16, help="Rows of cells at most; default 16."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from fisk_core.cli.picture import draw, drawn, shape

        width = shutil.get_terminal_size().columns if parsed_args.width is None else parsed_args.width
        if width < 1 or parsed_args.rows < 1:
            raise InvalidValue("a picture needs at least one row and one column")
        self.in_row, most_cells = shape(width, parsed_args.rows)
        if self.is_remote():
            with self.daemon() as remote:
                self.fisk = remote.get(parsed_args.name)
                self.picture = drawn(remote.picture(self.fisk.id, most_cells))
                self.fisks = remote.list(pool=self.fisk.pool)
        else:  # a daemon of this home directory reads the same maps
            with self.embedded() as engine:
                self.fisk = engine.get(parsed_args.name)
                with closing(engine.load_map(engine.find(self.fisk.id))) as block_map:
                    self.picture = draw(block_map, most_cells)
                self.fisks = engine.list(pool=self.fisk.pool)
        rows = [
            (
                each.letter,
                each.layer_id,
                Size(each.size),
                Words([fisk.name for fisk in _of(each, self.fisks)]),
            )
            for each in self.picture.layers
        ]
        return ("Letter", "Layer ID", "Size", "Fisks"), rows

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        if parsed_args.formatter != self.formatter_default or parsed_args.columns:
            return super().produce_output(parsed_args, column_names, data)
        from rich.console import Console

        console = Console(file=self.app.stdout, highlight=False)
        # Not printed by the console itself, which has ideas of its own about who reads no further.
        with console.capture() as captured:
            cell = format_size(self.picture.cell_size)
            console.print(f"{self.fisk.name}: {format_size(self.fisk.size)}, one cell is {cell}")
            for line in (
                *_picture_lines(self.picture, self.in_row),
                *_legend(self.picture.layers, self.fisks),
            ):
                console.print(line, soft_wrap=True)
        self.app.stdout.write(captured.get())
        return 0


def _style(letter: str) -> str:
    number = ord(letter.upper()) - ord("A")
    if not 0 <= number < 26:
        return "dim"
    return _COLOURS[number % len(_COLOURS)] + (" dim" if letter.islower() else "")


def _picture_lines(picture: "Picture", in_row: int) -> "Iterator[Text]":
    from rich.text import Text

    from fisk_core.cli.picture import rows

    for offset, cells in rows(picture, in_row):
        line = Text(offset)
        for letter in cells:
            line.append(letter, _style(letter))
        yield line


def _legend(layers: "Sequence[LayerShare]", fisks: "Sequence[Fisk]") -> "Iterator[Text]":
    from rich.text import Text

    for layer in layers:
        line = Text("  ")
        line.append(layer.letter, _style(layer.letter))
        yield line.append(f"  {layer.layer_id[:8]}  {format_size(layer.size):>10}  {_owners(layer, fisks)}")


def _owners(layer: "LayerShare", fisks: "Sequence[Fisk]") -> str:
    """Say whose period a layer is; the Fisk of an older one may be gone."""
    found = [f"{fisk.name} ({fisk.state.value}, {age(fisk.created_at)})" for fisk in _of(layer, fisks)]
    return ", ".join(found) or "(a deleted Fisk)"


def _of(layer: "LayerShare", fisks: "Sequence[Fisk]") -> "list[Fisk]":
    return [fisk for fisk in fisks if fisk.map_id == layer.layer_id]


def age(moment: datetime) -> str:
    """Give how long ago something was, in its largest unit: ``3 h``."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    return next((f"{int(seconds // unit)} {name}" for unit, name in _AGES if seconds >= unit), "just now")

# SPDX-License-Identifier: Apache-2.0
"""``fisk top``."""

import argparse
import json
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fisk_core.cli.base import FiskCommand
from fisk_core.cli.figures import ORDERS, Row, rows
from fisk_core.errors import FiskError, InvalidValue, Unavailable

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine

_HELP = "  ".join(f"{key} {name}" for key, (name, _) in ORDERS.items()) + "  q quit"


class Top(FiskCommand):
    """Watch the Fisks that are in use: requests and bytes a second, latencies, queues, connections, maps.

    Keys sort: i IOPS, b bytes, l latency, u queue, m map, n name; q ends it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--interval", metavar="SECONDS", type=float, default=1.0, help="Between two looks; default 1."
        )
        parser.add_argument(
            "--sort",
            choices=[name.lower() for name, _ in ORDERS.values()],
            default="iops",
            help="What to sort by; default iops.",
        )
        parser.add_argument("--once", action="store_true", help="Two looks, one table, the end.")
        parser.add_argument(
            "--json", action="store_true", help="As JSON, a line for each look; implies no keys."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        if not 0.05 <= parsed_args.interval <= 3600:
            raise InvalidValue("the interval must be between 0.05 and 3600 seconds")
        self.order = next(key for key, (name, _) in ORDERS.items() if name.lower() == parsed_args.sort)
        with self.daemon() as engine:
            look = _Look(engine)
            if parsed_args.once or parsed_args.json or not self.app.stdout.isatty():
                self._print(look, parsed_args)
            else:
                with suppress(KeyboardInterrupt):  # the usual way to end it
                    self._watch(look, parsed_args.interval)

    def _print(self, look: "_Look", parsed_args: argparse.Namespace) -> None:
        """Write plain tables, or JSON, one after the other."""
        while True:
            time.sleep(parsed_args.interval)
            found = self._sorted(look.again())
            if parsed_args.json:
                text = json.dumps([row.plain() for row in found])
            else:
                text = _plain(self._table(found, 80))
            self.app.stdout.write(text + "\n")
            self.app.stdout.flush()
            if parsed_args.once:
                return

    def _watch(self, look: "_Look", interval: float) -> None:
        """Draw until q or Ctrl-C; while the daemon does not answer, say so and go on."""
        from rich.console import Console
        from rich.live import Live

        from fisk_core.cli import live

        console, found, problem = Console(file=self.app.stdout), list[Row](), ""
        with live.keys() as keys, Live(console=console, screen=True, auto_refresh=False) as screen:
            due = time.monotonic() + interval
            while True:
                title = problem or f"{len(found)} in use, by {ORDERS[self.order][0]}   {_HELP}"
                shown = self._sorted(found)[: max(0, console.height - 3)]
                screen.update(live.table(shown, title, console.width), refresh=True)
                pressed = keys.wait(due - time.monotonic())
                if "q" in pressed:
                    return
                self.order = next((key for key in reversed(pressed) if key in ORDERS), self.order)
                if time.monotonic() >= due:
                    found, problem = self._look_again(look, found)
                    due = time.monotonic() + interval

    def _look_again(self, look: "_Look", before: list[Row]) -> tuple[list[Row], str]:
        try:
            return look.again(), ""
        except Unavailable as exc:
            return before, str(exc)

    def _sorted(self, found: list[Row]) -> list[Row]:
        return sorted(found, key=ORDERS[self.order][1])

    def _table(self, found: list[Row], least: int) -> Any:
        from fisk_core.cli import live

        width = max(least, shutil.get_terminal_size().columns)
        return live.table(found, f"{len(found)} in use, by {ORDERS[self.order][0]}", width)


def _plain(drawn: Any) -> str:
    from rich.console import Console

    console = Console(width=drawn.width, color_system=None)
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


class _Look:
    """What workers counted at the last look."""

    def __init__(self, engine: "RemoteEngine") -> None:
        self._engine = engine
        self._names: dict[str, str] = {}
        self._workers, self._at = self._read(), time.monotonic()

    def again(self) -> list[Row]:
        """Give the rows since the look before."""
        before, at = self._workers, self._at
        self._workers, self._at = self._read(), time.monotonic()
        return rows(before, self._workers, self._at - at)

    def _read(self) -> list[dict[str, Any]]:
        found = self._engine.workers()
        for each in found:
            if not each.get("name"):
                each["name"] = self._name(each["fisk_id"])
        return found

    def _name(self, fisk_id: str) -> str:
        if fisk_id not in self._names:
            try:
                self._names[fisk_id] = self._engine.get(fisk_id).name
            except FiskError:  # deleted meanwhile, or a Fisk that is being built: its id will do
                return fisk_id
        return self._names[fisk_id]

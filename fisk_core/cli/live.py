# SPDX-License-Identifier: Apache-2.0
"""A table that changes while somebody looks at it, and keys that are heard meanwhile."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fisk_core.units import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from fisk_core.cli.figures import Row


def table(rows: "list[Row]", title: str, width: int) -> "Table":
    """Draw the figures in at most ``width`` columns; the name gives way."""
    from rich.table import Table

    found = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), width=width
    )
    found.add_column("FISK", ratio=1, no_wrap=True, overflow="ellipsis", min_width=8)
    for heading in ("R/s", "W/s", "READ", "WRITE", "P50", "P99", "QUE", "CON", "MAP"):
        found.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        found.add_row(
            row.fisk,
            count(row.read_iops),
            count(row.write_iops),
            size(row.read_rate),
            size(row.write_rate),
            duration(row.p50),
            duration(row.p99),
            str(row.queue),
            str(row.connections),
            size(row.map_bytes),
        )
    return found


def count(value: float) -> str:
    """Give a number in at most five characters."""
    if value < 9999.5:
        return f"{value:.0f}"
    for unit in ("k", "M"):
        value /= 1000
        if value < 999.5:
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
    return f"{value / 1000:.0f}G"


def size(value: float) -> str:
    """Give bytes in at most six characters: ``12.3M``."""
    number, _, unit = format_size(round(value)).partition(" ")
    short = number if len(number) <= 4 else number.partition(".")[0]
    return short + unit[:1].replace("B", "")


def duration(seconds: float | None) -> str:
    """Give a latency in at most five characters."""
    if seconds is None:
        return "-"
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            value = seconds * factor
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:.0f}s"


@contextmanager
def keys() -> Iterator["Keys"]:
    """Hear single keys from the terminal; it is as before afterwards, however the block ends."""
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Keys:
    """The keys of a terminal, or of nobody."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def wait(self, seconds: float) -> str:
        """Give the keys pressed, as soon as there is one; nothing after ``seconds``."""
        if self._fd is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._fd], [], [], max(0.0, seconds))
        if not ready:
            return ""
        pressed = os.read(self._fd, 64)
        return pressed.decode(errors="replace") if pressed else "q"  # nobody can press any key any more

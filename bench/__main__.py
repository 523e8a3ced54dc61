# SPDX-License-Identifier: Apache-2.0
"""``python -m bench [--only ROW ...] [--quick]``: measure, print the table, write the report."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.context import FULL, QUICK, Bench
from bench.figures import Figure
from bench.plot import write_plot
from bench.processes import BenchFailed
from bench.report import cells, environment, write_report
from bench.rows import ROWS, ceph, cold, control, hot, lineage, memory, verbs
from fisk_core.errors import FiskError

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = (hot, memory, lineage, cold, verbs, control, ceph)  # imported for the rows they file
_WIDE = 180  # columns, where nobody looks at a terminal
_STYLES = {"pass": "green", "MISS": "bold red", "skipped": "yellow", "report": "dim"}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="one short round of everything: is all working?")
    parser.add_argument("--scratch", type=Path, default=CHECKOUT / ".work" / "bench", help="where to work")
    parser.add_argument(
        "--output", type=Path, help="where to write the report (default: bench/, if complete)"
    )
    return parser.parse_args(words)


def measure(bench: Bench, names: Sequence[str], console: Console) -> tuple[list[Figure], bool]:
    """Measure the rows ``names``; gives the figures, and whether every row could be measured."""
    figures: list[Figure] = []
    complete = True
    for name in names:
        start = time.monotonic()
        try:
            figures += ROWS[name](bench)
        except (BenchFailed, FiskError) as problem:
            complete = False
            figures.append(Figure(name, f"row {name}", note=f"failed: {problem}"))
        console.print(f"{name}: {time.monotonic() - start:.1f} s", style="dim", highlight=False)
    return figures, complete


def show_table(figures: Sequence[Figure], console: Console) -> None:
    """Print the figures for people."""
    table = Table("figure", "against", "must", "measured", "spread", "medians", "", show_lines=False)
    for figure in figures:
        table.add_row(*cells(figure), style=_STYLES[figure.verdict])
    console.print(table)


def run(chosen: argparse.Namespace) -> int:
    """Do what the command line asks; 1 when a row could not be measured (a missed figure is a result)."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    whole = not (chosen.only or chosen.quick)
    output = chosen.output or (CHECKOUT / "bench" if whole else CHECKOUT / ".work" / "bench-results")
    bench = Bench(chosen.scratch.resolve(), QUICK if chosen.quick else FULL)
    try:
        where = environment(bench.directory, bench.effort)
        figures, complete = measure(bench, chosen.only or list(ROWS), console)
    finally:
        bench.close()
    show_table(figures, console)
    files = write_report(output, figures, where)
    if not write_plot(output / "results.svg", figures):
        console.print("no plot: matplotlib is not installed (the extra is called 'bench')")
    console.print(f"written: {', '.join(str(file) for file in files)}")
    return 0 if complete else 1


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # so that servers are ended on the way out
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        sys.exit(run(arguments()))
    except BenchFailed as problem:
        sys.exit(f"bench: {problem}")

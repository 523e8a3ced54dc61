# SPDX-License-Identifier: Apache-2.0
"""``python -m proof [--only NAME ...] [--scale X] [--seed N]``: try to break every promise; print figures."""

import argparse
import csv
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from proof.core import PROOFS, Context, Figure, ProofFailed, scratch_directory

MODULES: tuple[str, ...] = (
    "proof.power.run",
    "proof.faults.run",
    "proof.rot.run",
    "proof.hostile.run",
    "proof.concurrency.run",
    "proof.filesystems.run",
    "proof.kernelnbd.run",
    "proof.soak.run",
    "proof.strength.coverage",
)
"""the modules that file a proof, in the order in which they run"""
FIGURES = Path(__file__).resolve().parent / "figures.csv"
_WIDE = 160  # columns, where nobody looks at a terminal


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PROOFS), metavar="NAME", help=", ".join(PROOFS))
    parser.add_argument("--scale", type=float, default=1.0, help="how many times the usual time to take")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--record", action="store_true", help=f"write the figures to {FIGURES.name}")
    return parser.parse_args(words)


def attempt(name: str, chosen: argparse.Namespace, console: Console) -> list[Figure]:
    """Run the proof ``name``; a broken promise becomes a figure that is not met."""
    one = PROOFS[name]
    started = time.monotonic()
    console.print(f"{name}: {one.title}", highlight=False)
    try:
        with scratch_directory() as scratch:
            context = Context(
                scratch=scratch,
                seconds=one.seconds * chosen.scale,
                seed=chosen.seed,
                processes=len(os.sched_getaffinity(0)),
                say=lambda text: console.print(f"  {text}", style="dim", highlight=False),
            )
            figures = one.run(context)
    except ProofFailed as problem:
        console.print(str(problem), style="bold red", highlight=False, markup=False)
        figures = [Figure(one.title, "broken", "kept", met=False, why=str(problem))]
    console.print(f"  {time.monotonic() - started:.1f} s", style="dim", highlight=False)
    return figures


def show(results: dict[str, list[Figure]], console: Console) -> None:
    """Print all figures as one table."""
    table = Table("proof", "figure", "must be", "is")
    for name, figures in results.items():
        for figure in figures:
            style = "" if figure.met else "bold red"
            table.add_row(name, figure.name, figure.must, _text(figure), style=style)
    console.print(table)


def complain(results: dict[str, list[Figure]], console: Console) -> None:
    """Say again what was broken, last: of a long log people are shown the end."""
    for name, figures in results.items():
        for figure in figures:
            if not figure.met:
                said = f"{name}: {figure.name}: {_text(figure)}, must be {figure.must}\n{figure.why}".rstrip()
                console.print(said, style="bold red", highlight=False, markup=False)


def record(results: dict[str, list[Figure]]) -> None:
    """Write the figures where the manual reads them."""
    with FIGURES.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("proof", "figure", "must be", "is"))
        for name, figures in results.items():
            rows.writerows((name, figure.name, figure.must, _text(figure)) for figure in figures)


def _text(figure: Figure) -> str:
    return figure.value if isinstance(figure.value, str) else f"{figure.value:,}"


def run(chosen: argparse.Namespace) -> int:
    """Do what the command line asks; 1 when anything was broken."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    results = {name: attempt(name, chosen, console) for name in chosen.only or PROOFS}
    show(results, console)
    complain(results, console)
    if chosen.record:
        record(results)
    return 0 if all(figure.met for figures in results.values() for figure in figures) else 1


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    for number in (signal.SIGTERM, signal.SIGINT):  # so that processes are ended on the way out
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    sys.exit(run(arguments()))

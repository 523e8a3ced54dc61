# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.strength [GROUP ...]``: would the tests notice a defect?  The mutation score of groups.

Takes about an hour on two cores.  Works in ``.work/strength``, which ``make clean`` removes.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from proof.core import scratch_directory
from proof.strength.groups import GROUPS
from proof.strength.mutation import ROOT, Score, difference, run

LEAST = 85.0
"""percent of the mutants of each group that a test must notice"""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(prog="python -m proof.strength", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*names, []], metavar="GROUP", help=", ".join(names))
    parser.add_argument("--survivors", action="store_true", help="show what each surviving mutant changes")
    parser.add_argument("--again", action="store_true", help="try only those that survived the last time")
    parser.add_argument(
        "--part", type=int, default=1, choices=[1, 2, 5, 10], help="try every so many-th mutant"
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args(words)


def main() -> int:
    """Mutate the groups asked for; 1 when one of them is below the least score."""
    chosen, console = arguments(), Console()
    table, weak = Table("group", "mutants", "killed", "survived", "score"), False
    for group in GROUPS:
        if chosen.groups and group.name not in chosen.groups:
            continue
        directory, started = ROOT / ".work" / "strength" / group.name.replace(" ", "-"), time.monotonic()
        try:
            with scratch_directory() as scratch:
                score = run(group, directory, chosen.processes, scratch, again=chosen.again, part=chosen.part)
        except subprocess.CalledProcessError:
            console.print((directory / "log").read_text()[-4000:], markup=False, highlight=False)
            console.print(f"the tests of {group.name} do not pass as they are", style="bold red")
            return 1
        console.print(f"{group.name}: {time.monotonic() - started:.0f} s", style="dim")
        weak = weak or score.percent < LEAST
        add(table, score)
        tell(score, console, chosen.survivors)
    console.print(table)
    return 1 if weak else 0


def add(table: Table, score: Score) -> None:
    """Add the row of a group."""
    killed, survived = score.counts["killed"], score.counts["survived"]
    style = "" if score.percent >= LEAST else "bold red"
    table.add_row(
        score.group.name,
        f"{killed + survived}",
        f"{killed}",
        f"{survived}",
        f"{score.percent:.1f} %",
        style=style,
    )


def tell(score: Score, console: Console, at_length: bool) -> None:
    """Name the survivors, or show what they change."""
    for line in score.survivors:
        console.print(f"  {line}", style="dim", highlight=False, markup=False)
        if at_length:
            directory = ROOT / ".work" / "strength" / score.group.name.replace(" ", "-")
            console.print(difference(line.split(" ")[0], directory), highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())

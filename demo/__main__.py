# SPDX-License-Identifier: Apache-2.0
"""``python -m demo``: show it and print the table; status 1 and one line where an expectation fails."""

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.run import DemoFailed, Processes
from demo.story import Step, Story
from fisk_core.units import format_size

WORK = Path(__file__).resolve().parent.parent / ".work"
_CAPTION = "stored: the pool's files on the disk; full copies: every Fisk as a file of its own"
_WIDE = 120  # columns, where nobody looks at a terminal
RESULTS = "results.txt"


def table(steps: Sequence[Step]) -> Table:
    """Give the closing table."""
    found = Table("step", caption=_CAPTION)
    for heading in ("time", "stored", "full copies"):
        found.add_column(heading, justify="right")
    for step in steps:
        found.add_row(step.title, f"{step.seconds:.1f} s", format_size(step.stored), format_size(step.copies))
    found.add_section()
    found.add_row("all", f"{sum(step.seconds for step in steps):.1f} s")
    return found


def show(story: Story, console: Console) -> int:
    """Tell the story and give the exit status."""
    try:
        story.tell()
    except KeyboardInterrupt:
        console.print("interrupted", style="bold red")
        return 130
    except DemoFailed as failure:
        console.print(f"FAILED: {failure}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1
    finally:
        console.print(table(story.steps))
    return 0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--scratch", type=Path, default=WORK / "demo", help="where to work")
    parser.add_argument("--cache", type=Path, default=WORK / "cache", help="where the kernel package is kept")
    parser.add_argument(
        "--keep", action="store_true", help="leave what the run made; it is left where the run failed, too"
    )
    chosen = parser.parse_args()
    directory = chosen.scratch.resolve() / "run"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    console = Console(highlight=False, record=True, width=None if sys.stdout.isatty() else _WIDE)
    with Processes() as processes:
        story = Story(
            directory,
            chosen.cache.resolve(),
            processes,
            lambda text: console.print(text, markup=False, soft_wrap=True),
        )
        status = show(story, console)
    (directory.parent / RESULTS).write_text(console.export_text())
    if not chosen.keep and status == 0:
        shutil.rmtree(directory)
    return status


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that guests and servers are ended on the way out
    sys.exit(main())

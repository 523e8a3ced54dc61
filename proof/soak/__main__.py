# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.soak --hours N [--seed N]``: a line every minute; Ctrl-C ends it in order."""

import argparse
import signal
import sys
from collections.abc import Sequence

from proof.soak.judging import figures, leaked
from proof.soak.run import attempt
from proof.soak.soak import LONG, Soak


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m proof.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    return parser.parse_args(words)


def say(text: str) -> None:
    print(text, flush=True)


def end_on_signals(soak: Soak) -> None:
    """Have the run end in order, with the figures so far, instead of being broken off."""

    def end(*_: object) -> None:
        soak.ending = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def main() -> int:
    """Soak; 1 when anything was not as it must be."""
    chosen = arguments()
    result = attempt(chosen.seed, LONG, chosen.hours * 3600, say, end_on_signals)
    for problem in result.problems[:100]:
        say(problem)
    for what, count in leaked(result).items():
        say(f"{count} {what} leaked")
    say(", ".join(f"{count:,} {what}" for what, count in sorted(result.counts.items())))
    say("refused: " + ", ".join(f"{count} {what}" for what, count in sorted(result.refused.items())))
    found = figures(result)
    for figure in found:
        say(f"{figure.name}: {figure.value}{f' (must be {figure.must})' if figure.must else ''}")
    met = all(figure.met for figure in found)
    say("all of it as it must be" if met else f"NOT as it must be; seed {chosen.seed}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

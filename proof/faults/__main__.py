# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.faults SCENARIO FILE CALL KIND [NUMBER]``: play one fault, or all that fit, and tell."""

import sys
import tempfile
from pathlib import Path

from proof.faults.run import chances, matching
from proof.faults.running import play_all
from proof.faults.scenarios import load


def main(words: list[str]) -> int:
    """Play; 1 when something was violated."""
    if len(words) not in (4, 5):
        print(__doc__, *sorted(load()), sep="\n  ")
        return 2
    scenarios, worst = load(), 0
    with tempfile.TemporaryDirectory(prefix="fp-", dir="/dev/shm") as name:
        found = matching(chances(Path(name) / "a", scenarios, words[0]), *words[1:4])
        chosen = [found[int(words[4])]] if len(words) == 5 else found
        (Path(name) / "b").mkdir()
        for outcome in play_all(Path(name) / "b", scenarios, chosen, 1, float("inf")):
            print(outcome.task, "violates:" if outcome.problems else "is well", *outcome.problems, sep="\n  ")
            worst = worst or bool(outcome.problems)
    return int(worst)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.power REPLAY ...``: look again at cuts that broke a promise; 1 when one still does."""

import sys
from pathlib import Path

from proof.power.replay import load, show


def main(paths: list[str]) -> int:
    """Show what is wrong with each."""
    broken = 0
    for path in map(Path, paths):
        cut, _ = load(path)
        problems = show(path).problems
        print(f"{path}: {cut.recording}, after {cut.position} records, {cut.choice} of {cut.unit} bytes")
        for text in map(str, problems) if problems else ["every promise is kept"]:
            print(f"  {text}")
        broken += bool(problems)
    return 1 if broken else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.replay HEX ...``: give one surface an input of the fuzzer once more."""

import sys
import tempfile
from pathlib import Path

from proof.hostile.surfaces import surfaces


def main() -> None:
    """Run every input; what it breaks is raised."""
    with tempfile.TemporaryDirectory(prefix="fp-") as home, surfaces(Path(home)) as found:
        for word in sys.argv[1:]:
            found.run(bytes.fromhex(word))
            print("nothing broke")


if __name__ == "__main__":
    main()

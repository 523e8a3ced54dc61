# SPDX-License-Identifier: Apache-2.0
"""A client that keeps writes in flight and notes every gap between completions.

``python -m bench.probe URI SECONDS`` prints JSON: ``completions``, and ``gaps``, pairs of CLOCK_MONOTONIC
nanoseconds.  It is a process of its own, so that nothing the measuring side does can delay it.
"""

import json
import random
import sys
import time
from collections import deque

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_transmission import Pending

DEPTH = 32
BLOCK = 4096
WORTH_NOTING = 1_000_000  # ns


def watch(client: NbdClient, seconds: float) -> tuple[int, list[tuple[int, int]]]:
    """Write random blocks for ``seconds``; gives completions and the gaps of a millisecond or more."""
    blocks = client.size // BLOCK
    data = random.randbytes(BLOCK)
    flying: deque[Pending] = deque()
    gaps: list[tuple[int, int]] = []
    completions = 0
    last = time.monotonic_ns()
    end = last + int(seconds * 1e9)
    while last < end:
        while len(flying) < DEPTH:
            flying.append(client.submit_write(random.randrange(blocks) * BLOCK, data))
        before = len(flying)
        client.progress()
        flying = deque(pending for pending in flying if not pending.done)
        now = time.monotonic_ns()
        if now - last >= WORTH_NOTING:
            gaps.append((last, now))
        completions += before - len(flying)
        last = now
    while flying:
        flying.popleft().result()
    return completions, gaps


def main() -> None:
    """Do what the command line says."""
    uri, seconds = sys.argv[1:]
    with NbdClient.connect(uri, depth=DEPTH) as client:
        completions, gaps = watch(client, float(seconds))
    sys.stdout.write(json.dumps({"completions": completions, "gaps": gaps}) + "\n")


if __name__ == "__main__":
    main()

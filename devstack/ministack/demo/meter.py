# SPDX-License-Identifier: Apache-2.0
"""What a step costs: seconds until the cloud says that it is done, and bytes written to the disks.

Bytes are counted by the kernel for every disk of the machine, between two ``sync``: nothing that is written
stays uncounted, whichever process writes it, and what is only on its way to the disk when a step is done
counts, too.  That holds for every storage alike, with the databases and logs of the services on top;
:meth:`Meter.idle` says how much is written when nothing is asked of the cloud.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SECTOR = 512
_WRITTEN = 6
"""index of the sectors written in ``/sys/block/*/stat``"""


@dataclass
class Step:
    """One row of the table; ``refused`` says why the cloud did not do it."""

    key: str
    title: str
    seconds: float = 0.0
    written: int = 0
    refused: str = ""


class Meter:
    """The steps measured so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, key: str, title: str) -> Iterator[Step]:
        """Measure what is done inside; a step that fails with an exception is none."""
        step = Step(key, title)
        before = written()
        started = time.monotonic()
        yield step
        step.seconds = time.monotonic() - started
        step.written = written() - before
        self.steps.append(step)

    def idle(self, seconds: float) -> None:
        """Measure nothing."""
        with self.step("idle", f"nothing, for {seconds:.0f} seconds"):
            time.sleep(seconds)


def written() -> int:
    """Give the bytes written to all disks since the machine was started, and have them written before."""
    os.sync()
    stats = (path / "stat" for path in Path("/sys/block").iterdir() if (path / "device").exists())
    return sum(int(stat.read_text().split()[_WRITTEN]) for stat in stats) * _SECTOR

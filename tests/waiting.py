# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process does in its own time, and for what it lets go of."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("FISK_TEST_PATIENCE", "20"))
"""seconds that a test waits for an answer; fewer where it is to be seen whether a test fails"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fails when it takes far too long."""
    assert _comes(condition), "it never happens"


def until_equal(look: Callable[[], object], wanted: object) -> None:
    """Wait until what is seen is what is wanted; fails with both when it takes far too long."""
    _comes(lambda: look() == wanted)
    assert look() == wanted


def _comes(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(pid: int, most: int) -> None:
    """Wait until a process has no more than so many files open: it sees that a client left a moment later."""
    until(lambda: open_files(pid) <= most)

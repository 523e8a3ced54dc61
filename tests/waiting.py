# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process does in its own time, and for what it lets go of."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("FISK_TEST_PATIENCE", "20"))
"""seconds that a test waits for an answer; fewer where it is to be seen whether a test fails"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fails when it takes far too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.02)  # rarely: looking may be a request to those who are waited for


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(pid: int, most: int) -> None:
    """Wait until a process has no more than so many files open: it sees that a client left a moment later."""
    until(lambda: open_files(pid) <= most)

# SPDX-License-Identifier: Apache-2.0
"""What every process of the data path does first and last."""

import resource
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from fisk_core.errors import FiskError

_SWITCH_INTERVAL = 0.0005
"""seconds a thread may keep the interpreter while the loop wants it (the default would stall requests)"""


def prepare() -> None:
    """Set up this process for serving: all descriptors it may have, and no signal for a broken connection."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def told(report: TextIO, call: Callable[[], int]) -> int:
    """Give the exit status of ``call``, and say to ``report`` in one line what went wrong."""
    try:
        return call()
    except FiskError as exc:
        print(f"fisk: {exc}", file=report)
        return exc.exit_status

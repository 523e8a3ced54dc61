# SPDX-License-Identifier: Apache-2.0
"""Processes that shall outlive the service that starts them, where systemd looks after that service.

systemd takes all processes of a service for a part of it.  One that is started through ``systemd-run
--scope`` is a unit of its own from its first moment, with the same process id, parent and descriptors.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_BOOTED = Path("/run/systemd/system")
"""is there where systemd is the init of this system"""
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
SLICE = "fisk-workers.slice"


def prefix() -> list[str]:
    """Give what to put before a command that shall outlive this process; empty where nothing is needed."""
    if "NOTIFY_SOCKET" not in os.environ or not _BOOTED.is_dir():
        return []
    program = shutil.which("systemd-run")
    if program is None:
        return []
    words = [program, "--scope", "--quiet", "--collect", f"--slice={SLICE}"]
    return words if os.geteuid() == 0 else [*words, "--user"]


def environment(**more: str) -> Mapping[str, str]:
    """Give the environment of such a command: it does not speak for the service."""
    return {**{key: value for key, value in os.environ.items() if key not in _OURS}, **more}

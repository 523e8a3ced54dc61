# SPDX-License-Identifier: Apache-2.0
"""Ending a process by its pidfd, which can never mean another one."""

import select
import signal
from contextlib import suppress


def has_ended(pidfd: int, seconds: float = 0.0) -> bool:
    """Wait up to ``seconds`` for a process to end; says whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def end(pidfd: int, seconds: float) -> None:
    """Return when the process, which was told to end, has ended; help it along after ``seconds``."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if has_ended(pidfd, seconds):
            return
        send(pidfd, number)
    has_ended(pidfd, seconds)


def send(pidfd: int, number: signal.Signals) -> None:
    """Send a signal; one that has ended gets none."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)

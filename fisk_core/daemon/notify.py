# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how we are (sd_notify): a datagram to the socket it named, nothing where it named none."""

import os
import socket


def notify(*words: str) -> None:
    """Send assignments like ``READY=1``; nobody listening is no error."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1)
        try:
            sock.sendto("\n".join(words).encode(), address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """Give how often systemd wants a sign of life, None when it wants none of this process."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None

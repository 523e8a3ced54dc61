# SPDX-License-Identifier: Apache-2.0
"""The process workers are forked from, replaced when it is gone; for any number of threads."""

import logging
import os
import select
import threading
from contextlib import suppress

from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import PoolError

LOG = logging.getLogger(__name__)
_MOMENT_MS = 50
"""between the end of a process's connections and its own"""


class Zygotes:
    """Always one zygote; its workers do not depend on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote = Zygote()
        self._children: set[int] = set()

    @property
    def pid(self) -> int:
        return self._zygote.pid

    def spawn(self, spec: DiskSpec, options: ServeOptions, lock_fd: int | None) -> int:
        """Start a worker, which listens when this returns; gives its process id.

        Raises what kept it from serving.
        """
        with self._lock:
            try:
                pid, _ = self._zygote.spawn(spec, options, lock_fd)
            except PoolError:
                if not self._replace_dead():
                    raise
                pid, _ = self._zygote.spawn(spec, options, lock_fd)
            self._children.add(pid)
            return pid

    def succeed(self, control: str) -> int:
        """Have a new worker take over from the one at ``control``; gives its process id."""
        with self._lock:
            try:
                pid, _ = self._zygote.succeed(control)
            except PoolError:
                if not self._replace_dead():
                    raise
                pid, _ = self._zygote.succeed(control)
            self._children.add(pid)
            return pid

    def status(self, pid: int) -> int | None:
        """Give the exit status of a worker that has ended, negative for a signal; None if it is not known."""
        with self._lock, suppress(PoolError):
            if pid in self._children:
                self._children.discard(pid)
                return self._zygote.wait(pid)
        return None

    def replace_dead(self) -> None:
        """Have another zygote if ours has ended."""
        with self._lock:
            self._replace_dead()

    def _replace_dead(self) -> bool:
        if not _has_ended(self._zygote.pid):
            return False
        LOG.warning("the process that starts workers ended; starting another")
        self._zygote.close()
        self._children.clear()
        self._zygote = Zygote()
        return True

    def close(self) -> None:
        """End the zygote; its workers go on."""
        with self._lock:
            self._zygote.close()


def _has_ended(pid: int) -> bool:
    """Say whether a child has; its exit status stays to be asked for."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(_MOMENT_MS))
    finally:
        os.close(pidfd)

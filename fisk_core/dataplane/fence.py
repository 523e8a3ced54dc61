# SPDX-License-Identifier: Apache-2.0
"""Watching whether another host has taken the Fisk over, and letting go of it for good then.

The fence is a file that says which epoch may still write; it is replaced as a whole, and only ever rises.
What decides who writes is the Fisk's lock: whoever takes over waits for it.  So nothing here depends on
clocks, or on how soon the fence is looked at.  The order in which a fenced worker lets go:

1. from one request to the next the disk is failed: nothing more reaches layer or log;
2. what threads had begun is awaited, answered, and its data made durable: the kernel must not write pages
   of this host back over what the next writer puts there;
3. log and layer are left as they are, then the lock is given up.

A crash at any point ends the lock, too.  Who comes next replays the log, as after any crash.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fisk_core import errors

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

LOG = logging.getLogger(__name__)
INTERVAL = 1.0
_MAX_DIGITS = 20


def read_fence(path: "str | os.PathLike[str]") -> int:
    """Give the lowest epoch that may write, 0 where there is no fence.

    Raises InvalidValue for a file that says nothing of the kind, OSError when it cannot be read.
    """
    try:
        # Opened each time: that is when a network file system asks its server.
        with open(path, "rb") as file:
            text = file.read(_MAX_DIGITS + 1).strip()
    except FileNotFoundError:
        return 0
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise errors.InvalidValue(f"{path} does not hold an epoch")
    return int(text)


class Watch:
    """A thread that looks at the fence: a network file system that does not answer stops no request."""

    def __init__(self, path: str, epoch: int, fenced: Callable[[], None]) -> None:
        """Have ``fenced`` called once, on the watch's own thread, when the fence passes ``epoch``."""
        self._path, self._epoch, self._fenced = Path(path), epoch, fenced
        self._end = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="fence", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._passed():
            if self._end.wait(INTERVAL):
                return
        self._fenced()

    def _passed(self) -> bool:
        try:
            passed = read_fence(self._path) > self._epoch
        except (OSError, errors.InvalidValue) as exc:
            # The lock still keeps everybody else out; a fence that can be read again will be.
            if not self._complained:
                LOG.warning("the fence cannot be read: %s", exc)
            self._complained = True
            return False
        self._complained = False
        return passed

    def close(self) -> None:
        self._end.set()
        self._thread.join(INTERVAL)  # unless it waits for a file system


class Fence:
    """The fence of one server."""

    def __init__(self, server: "Server", path: str, epoch: int, lock: int | None) -> None:
        self._server, self._lock = server, lock
        self.epoch = epoch
        self.released = False
        """the lock is given up"""
        self._watch = Watch(path, epoch, lambda: server.loop.from_thread(self.fall))

    def fall(self) -> None:
        """Let go of the Fisk; the process goes on, and refuses every request."""
        disk = self._server.disk
        if disk.fenced:
            return
        if self._server.departure:
            self._server.departure.withdraw(errors.Fenced("another host took over"))
        disk.fence(f"another host took over (its epoch is above {self.epoch})")
        LOG.error("Fisk %s: %s", disk.spec.name, disk.failed)
        self._server.transmission.disk_fenced()
        self._server.loop.barrier(self._settle)

    def _settle(self) -> None:
        """Have the kernel write what it still holds of ours."""
        period = self._server.disk.period
        if period is None:
            self._release()
        else:
            self._server.loop.submit("fence", 1, period.layer.flush, self._settled)

    def _settled(self, _: None, error: Exception | None) -> None:
        if error is not None:  # the pages are dropped then: nothing will be written later
            LOG.error("layer of Fisk %s: %s", self._server.disk.spec.name, error)
        self._release()

    def _release(self) -> None:
        self._server.give_up()
        if self._lock is not None:
            # Others may have the same descriptor: this ends the lock for all of them.
            try:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            except OSError as exc:  # the other host stays refused until this process ends
                LOG.error("the lock of Fisk %s cannot be given up: %s", self._server.disk.spec.name, exc)
                return
            os.close(self._lock)
            self._lock = None
        self.released = True
        LOG.error("Fisk %s is given up", self._server.disk.spec.name)

    def close(self) -> None:
        self._watch.close()

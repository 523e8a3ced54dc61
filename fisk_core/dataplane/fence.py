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

Where the other host was waiting for its turn, this is an orderly end instead: before 1, requests wait, what
is under way finishes, and everything is flushed.  The guest is there by now, and stands still meanwhile: so
the fence is looked at often.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fisk_core import errors, files
from fisk_core.dataplane.outgoing import Outgoing
from fisk_core.dataplane.spec import FenceOptions

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

LOG = logging.getLogger(__name__)
INTERVAL = 1.0
SOON = 0.03
"""seconds from look to look while another host waits for its turn"""
_LOOK_SECONDS = 0.002
_QUIET_SECONDS = 2.0
"""how long clients may take to accept the last replies"""
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

    def __init__(
        self, path: str, epoch: int, fenced: Callable[[], None], waited_for: Callable[[], bool]
    ) -> None:
        """Have ``fenced`` called once, on the watch's own thread, when the fence passes ``epoch``.

        ``waited_for`` is called there, too, and says whether to look often.
        """
        self._path, self._epoch, self._fenced = Path(path), epoch, fenced
        self._waited_for = waited_for
        self._end = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="fence", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._passed():
            if self._end.wait(SOON if self._waited_for() else INTERVAL):
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

    def __init__(self, server: "Server", path: str, epoch: int, lock: int | None, outgoing: Outgoing) -> None:
        self._server, self._lock = server, lock
        self.epoch = epoch
        self.released = False
        """the lock is given up"""
        self.outgoing = outgoing
        self.yielded: bool | None = None
        """whether everything was durable before; None while, or where, that was not tried"""
        self._until = 0.0
        self._watch = Watch(path, epoch, lambda: server.loop.from_thread(self.fall), outgoing.look)

    def fall(self) -> None:
        """Let go of the Fisk; the process goes on, and refuses every request."""
        disk = self._server.disk
        if disk.fenced or self._until:
            return
        if self._server.departure:
            self._server.departure.withdraw(errors.Fenced("another host took over"))
        if self.outgoing.waiting and disk.period and not disk.failed:
            self._until = time.monotonic() + _QUIET_SECONDS
            self._server.pause("fence")
            self._yield()
        else:
            self._fail()

    def _yield(self) -> None:
        """Let what is under way finish, and flush: for whoever waits, nothing must be missing."""
        server = self._server
        if not server.quiet and time.monotonic() < self._until:
            server.loop.later(_LOOK_SECONDS, self._yield)
        else:
            server.loop.barrier(lambda: server.flusher.flush(self._flushed))

    def _flushed(self, error: Exception | None) -> None:
        self.yielded = error is None
        self._fail()
        self._server.unpause("fence")

    def _fail(self) -> None:
        disk = self._server.disk
        disk.fence(f"another host took over (its epoch is above {self.epoch})")
        LOG.log(self._level, "Fisk %s: %s", disk.spec.name, disk.failed)
        self._server.transmission.disk_fenced()
        self._server.loop.barrier(self._settle)

    @property
    def _level(self) -> int:
        """How bad it is: somebody's writes fail, unless all was in order."""
        return logging.INFO if self.yielded else logging.ERROR

    def _settle(self) -> None:
        """Have the kernel write what it still holds of ours.

        Also where a flush had failed: it may have stopped half way, and the rest must not be written later,
        over what the next writer puts there.  Whatever it answers, nobody is told that anything is durable.
        """
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
        LOG.log(self._level, "Fisk %s is given up", self._server.disk.spec.name)

    def close(self) -> None:
        self._watch.close()


def watch(server: "Server") -> None:
    """Have the server let go of its Fisk when it is fenced, where it may be; raises PoolError."""
    if options := server.options.fence:
        # Beside the fence, where a worker of a version before does not know of them: its successor does.
        incoming, answer = (Path(options.path).with_suffix(f".{each}") for each in ("incoming", "outgoing"))
        outgoing = Outgoing(server, incoming, answer)
        server.fence = Fence(server, options.path, options.epoch, server.options.lock, outgoing)
        server.closing.append(server.fence.close)


def check(options: FenceOptions) -> None:
    """Raise Fenced when this worker comes too late."""
    with files.named("read", options.path):
        lowest = read_fence(options.path)
    if lowest > options.epoch:
        raise errors.Fenced("another host took over meanwhile")

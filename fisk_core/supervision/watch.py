# SPDX-License-Identifier: Apache-2.0
"""One thread that waits for the end of processes and for moments in time, and a few that act on it.

A process is waited for by its pidfd, so it need not be our child, and its id cannot be mistaken for that of a
later one.
"""

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fisk_core.errors import FiskError

LOG = logging.getLogger(__name__)
_THREADS = 8
_Act = Callable[[], None]


class Watch:
    """Acts when something happens; ``close`` ends it, and waits for what is being done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._ended: dict[int, _Act] = {}
        self._forgotten: list[int] = []
        self._times: list[tuple[float, int, _Act]] = []
        self._numbers = itertools.count()
        self._closing = False
        self._actors = ThreadPoolExecutor(_THREADS, "supervision")
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def process(self, pidfd: int, ended: _Act) -> None:
        """Call ``ended`` when the process has ended; the descriptor is ours from now on."""
        with self._lock:
            self._ended[pidfd] = ended
            self._poll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def forget(self, pidfd: int) -> None:
        """Do not call for this process any more, and close its descriptor; harmless when it has ended."""
        with self._lock:
            if self._ended.pop(pidfd, None) is None:
                return
            # Closed by the thread itself: it may be about to look up what it was told of this number.
            self._forgotten.append(pidfd)
            self._stir()

    def later(self, seconds: float, act: _Act) -> None:
        """Call ``act`` after that time, unless closed before."""
        with self._lock:
            heapq.heappush(self._times, (time.monotonic() + seconds, next(self._numbers), act))
            self._stir()

    def soon(self, act: _Act) -> None:
        """Call ``act`` on one of the threads."""
        with self._lock:
            if not self._closing:
                self._actors.submit(_guarded, act)

    def close(self) -> None:
        """Forget everything; returns when nothing is being done any more."""
        with self._lock:
            self._stir()
            self._closing = True
        self._thread.join()
        self._actors.shutdown(wait=True, cancel_futures=True)
        for pidfd in [*self._ended, *self._forgotten]:
            os.close(pidfd)
        self._ended.clear()
        self._poll.close()
        os.close(self._wake)

    def _stir(self) -> None:
        if not self._closing:
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while not self._closing:
            for fd, _ in self._poll.poll(self._patience()):
                if fd == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._end(fd)
            self._close_forgotten()
            for act in self._due():
                self.soon(act)

    def _end(self, pidfd: int) -> None:
        with self._lock:
            act = self._ended.pop(pidfd, None)
        if act is not None:
            os.close(pidfd)
            self.soon(act)

    def _close_forgotten(self) -> None:
        with self._lock:
            forgotten, self._forgotten = self._forgotten, []
        for pidfd in forgotten:
            os.close(pidfd)

    def _patience(self) -> float | None:
        with self._lock:
            return max(0.0, self._times[0][0] - time.monotonic()) if self._times else None

    def _due(self) -> list[_Act]:
        now, due = time.monotonic(), []
        with self._lock:
            while self._times and self._times[0][0] <= now:
                due.append(heapq.heappop(self._times)[2])
        return due


def _guarded(act: _Act) -> None:
    try:
        act()
    except FiskError as exc:
        LOG.warning("supervision: %s", exc)
    except Exception:
        # Nobody asks for the result: what is not said here is never seen.
        LOG.exception("supervision failed")

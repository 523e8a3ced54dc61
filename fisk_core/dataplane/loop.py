# SPDX-License-Identifier: Apache-2.0
"""The worker's event loop: epoll, work handed to threads and back, a list of things to do each round."""

import contextlib
import heapq
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from fisk_core.dataplane.classes import USUAL

IN, OUT, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP

_VAIN_TRIES, _REST = 16, 256

Done = Callable[[Any, Exception | None], None]


class Loop:
    """One thread that never waits for a disk or a peer; blocking calls run on a few others."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._finished: deque[tuple[Done, Any, Exception | None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.rounds: list[Callable[[], bool]] = []
        """called after each round of events; True asks for another round at once"""
        self.stopping = False
        self.look_on = USUAL.look_on
        """seconds to look for the next event before going to sleep"""
        self._vain = self._rest = 0
        self._signals: list[signal.Signals] = []
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: set[object] = set()
        self._barriers: list[tuple[set[object], Callable[[], None]]] = []
        self.add(self._wake, IN, self._woken)

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` once after ``seconds``."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), call))

    def submit(self, pool: str, threads: int, work: Callable[[], Any], done: Done) -> None:
        """Run ``work`` on one of the ``threads`` of ``pool``; then ``done(result, error)`` on the loop."""
        if pool not in self._pools:
            self._pools[pool] = ThreadPoolExecutor(threads, thread_name_prefix=pool)
        token = object()
        self._running.add(token)

        def finish(result: Any, error: Exception | None) -> None:
            self._running.discard(token)
            done(result, error)
            self._pass_barriers()

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as exc:  # whatever it is, it belongs to the one who asked
                error = exc
            self._finished.append((finish, result, error))
            os.eventfd_write(self._wake, 1)

        self._pools[pool].submit(run)

    def barrier(self, call: Callable[[], None]) -> None:
        """Call ``call`` when all work submitted until now is done."""
        self._barriers.append((set(self._running), call))
        self._pass_barriers()

    def _pass_barriers(self) -> None:
        passed = [entry for entry in self._barriers if not entry[0] & self._running]
        self._barriers = [entry for entry in self._barriers if entry[0] & self._running]
        for _, call in passed:
            call()

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):  # it stays readable then
            os.eventfd_read(self._wake)
        while self._finished:
            done, result, error = self._finished.popleft()
            done(result, error)

    def from_thread(self, call: Callable[[], None]) -> None:
        """Call ``call`` on the loop; for other threads and signal handlers."""
        self._finished.append((lambda *_: call(), None, None))
        os.eventfd_write(self._wake, 1)

    @property
    def idle(self) -> bool:
        """Nothing submitted or begun is under way."""
        return not self._running

    def stop_on(self, *signals: signal.Signals, call: Callable[[], None]) -> None:
        """Call ``call`` on the loop when one of the signals comes."""

        for number in signals:
            signal.signal(number, lambda *_: self.from_thread(call))
            self._signals.append(number)

    def run(self) -> None:
        """Handle events until :attr:`stopping`."""
        handlers = self._handlers
        busy = False
        while not self.stopping:
            for fd, events in self._wait(0 if busy else self._patience()):
                handler = handlers.get(fd)
                if handler:
                    handler(events)
            self._run_timers()
            busy = False
            for call in self.rounds:
                busy = call() or busy

    def _wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for events; first without sleeping, for as long as a client at work takes to ask again.

        A core that went to sleep takes longer to wake than a cached read.  Looking on is given up while it
        does not pay: after some tries in vain, for the next waits.
        """
        if timeout == 0 or self._rest or not self.look_on:
            self._rest = max(0, self._rest - 1)
            return self._epoll.poll(timeout)
        poll, clock = self._epoll.poll, time.perf_counter
        until = clock() + self.look_on
        while clock() < until:
            if events := poll(0):
                self._vain = 0
                return events
        self._vain += 1
        if self._vain == _VAIN_TRIES:
            self._vain, self._rest = 0, _REST
        return poll(timeout)

    def _patience(self) -> float | None:
        """Give the seconds until the next timer is due, None when there is none."""
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Finish the work under way, and what that leads to, and close; further signals change nothing."""
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)
        while self._running:
            select.select([self._wake], [], [])
            self._woken(0)
        for pool in self._pools.values():
            pool.shutdown(wait=True)
        self._epoll.close()
        os.close(self._wake)

# SPDX-License-Identifier: Apache-2.0
"""What goes on meanwhile: workers and daemon are killed, workers handed over; the collector runs."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError
from tests.fiskds import Fiskd


class Troubles:
    """Threads that make trouble until ``stop``; ``counts`` says how often."""

    def __init__(self, fiskd: Fiskd, chance: random.Random, pause: tuple[float, float]) -> None:
        self.fiskd, self.chance, self.pause = fiskd, chance, pause
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.trace: list[tuple[int, int, str]] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(each,)) for each in (self._kill, self._collect)
        ]

    @property
    def kills(self) -> int:
        return self.counts["kills of workers"] + self.counts["kills of fiskd"]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[RemoteEngine], None]) -> None:
        try:
            with RemoteEngine.open(self.fiskd.url) as engine:
                work(engine)
        except Exception as exc:  # in a thread nobody would hear of it
            self.problems.append(f"{work.__name__}: {exc!r}")

    def _kill(self, engine: RemoteEngine) -> None:
        while not self._end.wait(self.chance.uniform(*self.pause)):
            kind = self.chance.choices(("worker", "fiskd", "both", "upgrade"), (6, 1, 1, 3))[0]
            began = time.monotonic_ns()
            self._make(kind, engine)
            self.trace.append((began, time.monotonic_ns(), f"        {kind}"))

    def _make(self, kind: str, engine: RemoteEngine) -> None:
        """Make one trouble."""
        if kind == "upgrade":
            with suppress(FiskError):  # a worker that is just dying cannot be handed over
                self.counts["hand-overs"] += engine.upgrade()
            return
        if kind != "fiskd":
            self._kill_worker(engine)
        if kind != "worker":
            self.fiskd.kill()
            self.fiskd.restart()
            self.counts["kills of fiskd"] += 1

    def _kill_worker(self, engine: RemoteEngine) -> None:
        with suppress(FiskError, ProcessLookupError):
            pids = [worker["pid"] for worker in engine.workers() if not worker["read_only"]]
            if pids:
                os.kill(self.chance.choice(pids), signal.SIGKILL)
                self.counts["kills of workers"] += 1

    def _collect(self, engine: RemoteEngine) -> None:
        """Run the collector again and again; a scrub now and then."""
        while not self._end.is_set():
            with suppress(FiskError):  # the daemon was killed
                report = engine.collect()
                self.counts["bytes reclaimed"] += report.reclaimed
                self.counts["collections"] += 1
            time.sleep(0.02)

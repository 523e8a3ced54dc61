# SPDX-License-Identifier: Apache-2.0
"""The thread that does what is due: scheduled snapshots, expiry, and room in pools that run full.

Every host may run one: all may be done twice.  A run that fails is tried again every few seconds.
"""

import logging
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

from fisk_core.errors import FiskError
from fisk_core.model import Schedule
from fisk_core.services import expendable, schedules, sweep

if TYPE_CHECKING:
    from fisk_core.engine import Engine

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often pools are looked at, and what expires."""
LONGEST_PAUSE = 5.0
"""How soon a new schedule is seen, and one that failed is tried again; a run of a known one comes when it is
due."""
SHORTEST_PAUSE = 0.05


class Scheduler:
    """Does what is due on ``engine``; relieves pools from ``high_water`` percent down to ``low_water``."""

    def __init__(self, engine: "Engine", *, high_water: float = 90.0, low_water: float = 85.0) -> None:
        self._engine = engine
        self._high, self._low = high_water, low_water
        self._stopping = threading.Event()
        self._complaints: dict[str, str] = {}
        self._failed: dict[str, datetime] = {}
        """the run of a schedule that was said to have failed"""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._work, name="fisk-scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done; a second call does nothing."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def tick(self) -> None:
        """Do all that is due now."""
        self._run_due()
        self._look_after()

    def _work(self) -> None:
        looked = 0.0  # never yet
        while not self._stopping.is_set():
            pause = LONGEST_PAUSE
            try:
                asked = self._run_due()
                if not looked or time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    self._look_after()
                pause = self._pause(asked)
            except FiskError as exc:
                LOG.warning("schedules wait a moment: %s", exc)
            self._stopping.wait(pause)

    def _pause(self, asked: datetime) -> float:
        """Give how long nothing will be due that was not when that was ``asked``."""
        left = schedules.next_due(self._engine, asked)
        if left is None:
            return LONGEST_PAUSE
        return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, left.total_seconds()))

    def _run_due(self) -> datetime:
        """Do the runs that are due; gives when they were."""
        found, asked = schedules.due(self._engine)
        for schedule in found:
            try:
                taken = schedules.run(self._engine, schedule)
            except FiskError as exc:
                self._failing(schedule, exc)
                continue
            self._failed.pop(schedule.id, None)
            if taken is not None:
                LOG.info("schedule %s took snapshot %s", schedule.id, taken.name)
        return asked

    def _failing(self, schedule: Schedule, error: FiskError) -> None:
        """Say once for each run that it fails; another host, or the next try, may succeed."""
        if self._failed.get(schedule.id) != schedule.next_run:
            LOG.warning("schedule %s took no snapshot yet: %s", schedule.id, error)
        self._failed[schedule.id] = schedule.next_run

    def _look_after(self) -> None:
        schedules.expired(self._engine)
        sweep.sweep_pins(self._engine)
        self._relieve()

    def _relieve(self) -> None:
        for pool in self._engine.pool_names():
            try:
                expendable.relieve(self._engine, pool, self._high, self._low)
            except FiskError as exc:
                self._complain(pool, str(exc))
            else:
                self._complaints.pop(pool, None)

    def _complain(self, pool: str, message: str) -> None:
        """Say once what is wrong with a pool; perhaps it is another host's."""
        if self._complaints.get(pool) != message:
            self._complaints[pool] = message
            LOG.warning("could not look after pool %s: %s", pool, message)

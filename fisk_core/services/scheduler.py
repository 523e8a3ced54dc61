# SPDX-License-Identifier: Apache-2.0
"""The thread that does what is due: scheduled snapshots, expiry, and room in pools that run full.

Every host may run one: runs are claimed, and the rest may be done twice.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING

from fisk_core.catalog import schedules as rows
from fisk_core.catalog.database import clock
from fisk_core.errors import FiskError
from fisk_core.services import expendable, schedules, sweep

if TYPE_CHECKING:
    from fisk_core.engine import Engine

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often pools are looked at, and what expires."""
LONGEST_PAUSE = 5.0
"""How soon a new schedule is seen; a run of a known one comes when it is due."""
SHORTEST_PAUSE = 0.05


class Scheduler:
    """Does what is due on ``engine``; relieves pools from ``high_water`` percent down to ``low_water``."""

    def __init__(self, engine: "Engine", *, high_water: float = 90.0, low_water: float = 85.0) -> None:
        self._engine = engine
        self._high, self._low = high_water, low_water
        self._stopping = threading.Event()
        self._complaints: dict[str, str] = {}
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
                self._run_due()
                if not looked or time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    self._look_after()
                pause = self._pause()
            except FiskError as exc:
                LOG.warning("schedules wait a moment: %s", exc)
            self._stopping.wait(pause)

    def _pause(self) -> float:
        """Give how long nothing will be due."""
        with self._engine.catalog.read() as conn:
            following, now = rows.next_run(conn), clock(conn)
        if following is None:
            return LONGEST_PAUSE
        return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, (following - now).total_seconds()))

    def _run_due(self) -> None:
        for schedule in schedules.claim(self._engine):
            try:
                taken = schedules.run(self._engine, schedule)
            except FiskError as exc:
                LOG.warning("schedule %s took no snapshot: %s", schedule.id, exc)
                continue
            if taken is not None:
                LOG.info("schedule %s took snapshot %s", schedule.id, taken.name)

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

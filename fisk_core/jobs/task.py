# SPDX-License-Identifier: Apache-2.0
"""One job while it runs: how it says how far it is, and how it learns that it shall stop."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisk_core.catalog import jobs as rows
from fisk_core.errors import Cancelled
from fisk_core.model import Job
from fisk_core.services import events

if TYPE_CHECKING:
    from fisk_core.engine import Engine

PERSIST_SECONDS = 1.0
"""How often progress is written down at most, and how soon another host's wish to cancel is seen."""


class Interrupted(Cancelled):
    """The runner stops: what was begun is undone, and begun again when it starts."""


@dataclass(frozen=True, slots=True)
class Where:
    """What every task of a runner works with."""

    engine: "Engine"
    directories: Sequence[Path]
    stopping: threading.Event


class Task:
    """A running job.  ``progress`` is called by the thread that does the work, ``cancel`` by any."""

    def __init__(self, where: Where, job: Job) -> None:
        self.engine = where.engine
        self.directories = where.directories
        self.job = job
        self.noted: Any = job.result
        """what an earlier run of the same job noted, None most times"""
        self._stopping = where.stopping
        self._cancelled = threading.Event()
        self._written = time.monotonic()
        self.done, self.total = 0, job.total

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.job.arguments

    def cancel(self) -> None:
        self._cancelled.set()

    def progress(self, done: int, total: int | None) -> None:
        """Take how much is done of how much; raises Cancelled when the job shall end, and then it must."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled on request")
        if self._stopping.is_set():
            raise Interrupted("interrupted; begins again when the service starts")
        now = time.monotonic()
        if now - self._written >= PERSIST_SECONDS and (done, total) != (self.done, self.total):
            self._written = now
            self._persist(done, total)
        self.done, self.total = done, total

    def _persist(self, done: int, total: int | None) -> None:
        job = self.job
        with self.engine.catalog.change() as conn:
            rows.change(conn, job.id, done=done, total=total)
            events.emit(conn, "job.progress", job=job.id, kind=job.kind, done=done, total=total)
            if rows.is_cancelling(conn, job.id):
                self._cancelled.set()

    def note(self, what: Any) -> None:
        """Remember something, JSON, for the next run of this job, should this one not come to its end."""
        with self.engine.catalog.change() as conn:
            rows.change(conn, self.job.id, result=what)

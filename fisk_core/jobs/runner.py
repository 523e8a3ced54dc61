# SPDX-License-Identifier: Apache-2.0
"""Runs the jobs of one host, a few at a time, in the order in which they were submitted.

What is to be done, and what came of it, is in the catalog: a job submitted is a job that will be done, also
by the next process on this host when this one dies.  Each change of a job's state and the event that tells
of it are one transaction.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisk_core import locks
from fisk_core.catalog import jobs as rows
from fisk_core.engine import validate
from fisk_core.errors import AlreadyExists, Cancelled, FiskError, InvalidValue, Overloaded
from fisk_core.jobs.kinds import KINDS, Kind
from fisk_core.jobs.problem import document
from fisk_core.jobs.task import Interrupted, Task, Where
from fisk_core.model import Job, JobState
from fisk_core.services import events

if TYPE_CHECKING:
    from fisk_core.engine import Engine

LOG = logging.getLogger(__name__)

KEPT = timedelta(days=7)
IDLE_SECONDS = 5.0
"""How often an idle thread looks for jobs that another process submitted for this host."""
_LOCK_SECONDS = 10.0
Jobs = list[Job]


class Runner:
    """The jobs of ``host``; may be asked by several threads at once, also when it was not started."""

    def __init__(
        self,
        engine: "Engine",
        host: str,
        concurrency: int = 2,
        *,
        max_queued: int = 100,
        directories: Sequence[Path] = (),
    ) -> None:
        self._engine, self._catalog, self.host = engine, engine.catalog, host
        self._concurrency, self._max_queued = concurrency, max_queued
        self._directories = list(directories)
        self._stopping = threading.Event()
        self._wanted = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._running: dict[str, Task] = {}
        self._lock: locks.Lock | None = None

    # Asking

    def submit(self, kind: str, arguments: Mapping[str, Any], *, id: str | None = None) -> Job:
        """Have a job done; the same id with the same arguments gives the job submitted before.

        Raises InvalidValue, AlreadyExists, Overloaded, and what is wrong with its arguments: NotFound,
        Forbidden.
        """
        known = _kind(kind)
        given = known.check(arguments)
        job_id = validate.fisk_id(id)
        with self._catalog.read() as conn:
            found = rows.try_find(conn, job_id)
        if found is not None:
            return _same(found, kind, given)
        complete = dict(given)
        known.prepare(self._engine, self._directories, complete)
        with self._catalog.change() as conn:
            found = rows.try_find(conn, job_id)
            if found is not None:
                return _same(found, kind, given)
            if rows.count_queued(conn, self.host) >= self._max_queued:
                raise Overloaded(f"{self._max_queued} jobs are waiting already; try again later")
            rows.add(conn, job_id, kind, self.host, complete)
            events.emit(conn, "job.queued", job=job_id, kind=kind, host=self.host)
            job = rows.find(conn, job_id)
        with self._wanted:
            self._wanted.notify()
        return job

    def get(self, id: str) -> Job:
        """Give a job; raises NotFound."""
        with self._catalog.read() as conn:
            return rows.find(conn, id)

    def list(self, *, host: str | None = None, state: str | None = None, kind: str | None = None) -> Jobs:
        """Give the jobs of all hosts that match everything given, oldest first."""
        with self._catalog.read() as conn:
            return rows.every(conn, host=host, states=[state] if state else (), kind=kind)

    def cancel(self, id: str) -> Job:
        """Have a job end and undo what it began; one that is over stays as it is.  Raises NotFound.

        A queued job is cancelled on return, a running one soon: when it next says how far it is.
        """
        with self._catalog.change() as conn:
            job = rows.find(conn, id)
            if job.state is JobState.QUEUED:
                rows.change(conn, id, state=JobState.CANCELLED.value)
                events.emit(conn, "job.cancelled", job=id, kind=job.kind)
            elif not job.over:
                rows.ask_to_cancel(conn, id)
            job = rows.find(conn, id)
        task = self._running.get(id)
        if task is not None:
            task.cancel()
        return job

    def wait(self, id: str, timeout: float | None = None) -> Job:
        """Give the job once it is over, or as it is after ``timeout`` seconds; raises NotFound."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self._catalog.changes.count
            job = self.get(id)
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if job.over or left <= 0:
                return job
            self._catalog.changes.wait(seen, left)

    # Doing

    def start(self) -> None:
        """Begin to work; what was running when the last process of this host ended begins again.

        Raises InUse when another process runs the jobs of this home directory.
        """
        self._lock = locks.acquire(self._engine.home.run / "jobs.lock", timeout=_LOCK_SECONDS)
        self._stopping.clear()
        with self._catalog.change() as conn:
            again = rows.requeue(conn, self.host)
        if again:
            LOG.info("%d jobs that were interrupted begin again", again)
        for number in range(self._concurrency):
            thread = threading.Thread(target=self._work, name=f"fisk-job-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """End; running jobs undo what they began, and begin again at the next start.

        Waits for them, at most ``timeout`` seconds.  What still goes on then ends with the process, and is
        cleaned up by the next.
        """
        self._stopping.set()
        with self._wanted:
            self._wanted.notify_all()
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._claim()
                if job is not None:
                    self._run(job)
                    continue
                self._forget_old()
            except FiskError as exc:
                LOG.warning("the jobs of this host wait a moment: %s", exc)
            with self._wanted:
                if not self._stopping.is_set():
                    self._wanted.wait(IDLE_SECONDS)

    def _claim(self) -> Job | None:
        """Take the oldest queued job."""
        with self._catalog.read() as conn:
            if not rows.count_queued(conn, self.host):
                return None
        with self._catalog.change() as conn:
            queued = rows.every(conn, host=self.host, states=[JobState.QUEUED.value])
            if not queued:
                return None
            rows.change(conn, queued[0].id, state=JobState.RUNNING.value)
            return queued[0]

    def _run(self, job: Job) -> None:
        task = Task(Where(self._engine, self._directories, self._stopping), job)
        self._running[job.id] = task
        try:
            with self._catalog.read() as conn:
                if rows.is_cancelling(conn, job.id):  # asked for before the task could be told
                    task.cancel()
            task.progress(0, None)
            result = _kind(job.kind).run(task)
        except Interrupted:
            LOG.info("job %s (%s) was interrupted and begins again later", job.id, job.kind)
        except Cancelled:
            self._finish(task, JobState.CANCELLED)
        except FiskError as exc:
            self._finish(task, JobState.FAILED, error=document(exc))
        except Exception:  # a job with a bug must not take its thread, and so the other jobs, with it
            LOG.exception("job %s (%s) failed in a way that nobody expected", job.id, job.kind)
            self._finish(
                task, JobState.FAILED, error=document(FiskError("an internal error; the log has more"))
            )
        else:
            self._finish(task, JobState.DONE, result=result)
        finally:
            del self._running[job.id]

    def _finish(
        self, task: Task, state: JobState, *, result: Any = None, error: Mapping[str, Any] | None = None
    ) -> None:
        job = task.job
        told: dict[str, Any] = {"job": job.id, "kind": job.kind, **({"error": error} if error else {})}
        total = task.done if state is JobState.DONE and task.total is None else task.total
        with self._catalog.change() as conn:
            rows.change(
                conn, job.id, state=state.value, done=task.done, total=total, result=result, error=error
            )
            events.emit(conn, f"job.{state.value}", **told)

    def _forget_old(self) -> None:
        before = datetime.now(UTC).replace(tzinfo=None) - KEPT
        with self._catalog.read() as conn:
            if not rows.has_old(conn, self.host, before):
                return
        with self._catalog.change() as conn:
            rows.forget(conn, self.host, before)


def _kind(name: str) -> Kind:
    found = KINDS.get(name)
    if found is None:
        raise InvalidValue(f"'{name}' is not a kind of job ({', '.join(KINDS)})")
    return found


def _same(found: Job, kind: str, given: Mapping[str, Any]) -> Job:
    """Give the job that has the id already; raises AlreadyExists if it is another one."""
    if found.kind != kind or any(found.arguments.get(key) != value for key, value in given.items()):
        raise AlreadyExists(f"there is another job with id {found.id} already")
    return found

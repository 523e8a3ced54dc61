# SPDX-License-Identifier: Apache-2.0
"""Long work that the daemon does: submitted, watched, cancelled."""

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from fisk_core.client.answers import decode, decode_all
from fisk_core.client.transport import Transport
from fisk_core.client.verbs import items
from fisk_core.errors import Cancelled, FiskError
from fisk_core.model import Job, JobState
from fisk_core.problem import error_of

Progress = Callable[[int, int | None], None]
Jobs = list[Job]
_SHORTEST, _LONGEST = 0.01, 1.0  # seconds between two looks at a job


class RemoteJobs:
    """The jobs of a daemon; see ``fisk_core.jobs.Runner``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, kind: str, arguments: Mapping[str, Any], *, id: str | None = None) -> Job:
        """Have a job done; raises InvalidValue, NotFound, Forbidden, Overloaded."""
        body = {"kind": kind, "arguments": dict(arguments), "id": id or str(uuid4())}
        return decode(Job, self._transport.call("POST", "/jobs", json=body, again=True))

    def get(self, id: str) -> Job:
        return decode(Job, self._transport.call("GET", _path(id)))

    def list(self, *, host: str | None = None, state: str | None = None, kind: str | None = None) -> Jobs:
        """Give the jobs that match everything given, oldest first."""
        params = {"host": host, "state": state, "kind": kind}
        return decode_all(Job, items(self._transport.call("GET", "/jobs", params=params), "jobs"))

    def cancel(self, id: str) -> Job:
        """Have a job end and undo what it began; one that is over stays as it is."""
        self._transport.call("DELETE", _path(id))
        return self.get(id)

    def wait(self, id: str, timeout: float | None = None, progress: Progress | None = None) -> Job:
        """Give the job once it is over, or as it is after ``timeout`` seconds; raises NotFound."""
        deadline = None if timeout is None else time.monotonic() + timeout
        told, pause = None, _SHORTEST
        while True:
            job = self.get(id)
            if progress is not None and told != (job.done, job.total) and (job.done or job.total):
                told, pause = (job.done, job.total), _SHORTEST
                progress(job.done, job.total)
            left = _LONGEST if deadline is None else deadline - time.monotonic()
            if job.over or left <= 0:
                return job
            time.sleep(min(pause, left))
            pause = min(_LONGEST, pause * 1.5)

    def run(self, kind: str, arguments: Mapping[str, Any], progress: Progress | None = None) -> Any:
        """Have a job done and give its result; it is cancelled when the wait for it ends early.

        Raises what made it fail, and Cancelled.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        job = self.submit(kind, given)
        try:
            job = self.wait(job.id, progress=progress)
        except BaseException:
            self.cancel(job.id)
            raise
        return result_of(job)


def result_of(job: Job) -> Any:
    """Give the result of a job that is over; raises what made it fail, and Cancelled."""
    if job.state is JobState.DONE:
        return job.result
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"the {job.kind} was cancelled")
    raise error_of(job.error) if job.error else FiskError(f"the {job.kind} failed without saying why")


def _path(id: str) -> str:
    return f"/jobs/{quote(id, safe='')}"

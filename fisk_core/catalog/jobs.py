# SPDX-License-Identifier: Apache-2.0
"""Statements on jobs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fisk_core.catalog.schema import jobs
from fisk_core.errors import NotFound
from fisk_core.model import Job, JobState

_UNFINISHED = (JobState.QUEUED.value, JobState.RUNNING.value)
_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.arguments,
    jobs.c.done,
    jobs.c.total,
    jobs.c.created_at,
    jobs.c.updated_at,
    jobs.c.host,
    jobs.c.result,
    jobs.c.error,
)


def add(conn: Connection, job_id: str, kind: str, host: str, arguments: Mapping[str, Any]) -> None:
    """Insert a queued job."""
    now = _now()
    row = {
        "id": job_id,
        "kind": kind,
        "state": JobState.QUEUED.value,
        "host": host,
        "arguments": dict(arguments),
        "done": 0,
        "cancelling": False,
        "created_at": now,
        "updated_at": now,
    }
    conn.execute(insert(jobs).values(row))


def try_find(conn: Connection, job_id: str) -> Job | None:
    row = conn.execute(select(*_COLUMNS).where(jobs.c.id == job_id)).first()
    return _job(row) if row is not None else None


def find(conn: Connection, job_id: str) -> Job:
    """Give one job; raises NotFound."""
    found = try_find(conn, job_id)
    if found is None:
        raise NotFound(f"there is no job {job_id}")
    return found


def every(
    conn: Connection, *, host: str | None = None, states: Sequence[str] = (), kind: str | None = None
) -> list[Job]:
    """Give the jobs that match everything given, oldest first."""
    query = select(*_COLUMNS).order_by(jobs.c.created_at, jobs.c.id)
    if host is not None:
        query = query.where(jobs.c.host == host)
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    if states:
        query = query.where(jobs.c.state.in_(states))
    return [_job(row) for row in conn.execute(query)]


def count_queued(conn: Connection, host: str) -> int:
    mine = select(func.count()).where(jobs.c.host == host, jobs.c.state == JobState.QUEUED.value)
    return int(conn.execute(mine).scalar_one())


def change(conn: Connection, job_id: str, **values: Any) -> None:
    conn.execute(update(jobs).where(jobs.c.id == job_id).values(updated_at=_now(), **values))


def ask_to_cancel(conn: Connection, job_id: str) -> None:
    conn.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(_UNFINISHED)).values(cancelling=True)
    )


def is_cancelling(conn: Connection, job_id: str) -> bool:
    return bool(conn.execute(select(jobs.c.cancelling).where(jobs.c.id == job_id)).scalar())


def requeue(conn: Connection, host: str) -> int:
    """Let the jobs that were running on a host begin again; gives their number."""
    mine = (jobs.c.host == host, jobs.c.state == JobState.RUNNING.value)
    return int(conn.execute(update(jobs).where(*mine).values(state=JobState.QUEUED.value)).rowcount)


def forget(conn: Connection, host: str, before: datetime) -> int:
    """Remove a host's finished jobs that ended before a time (UTC, without a zone); gives their number."""
    old = (jobs.c.host == host, jobs.c.state.not_in(_UNFINISHED), jobs.c.updated_at < before)
    return int(conn.execute(delete(jobs).where(*old)).rowcount)


def has_old(conn: Connection, host: str, before: datetime) -> bool:
    old = (jobs.c.host == host, jobs.c.state.not_in(_UNFINISHED), jobs.c.updated_at < before)
    return conn.execute(select(jobs.c.id).where(*old).limit(1)).first() is not None


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _job(row: Any) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        state=JobState(row.state),
        arguments=row.arguments,
        done=row.done,
        total=row.total,
        created_at=row.created_at.replace(tzinfo=UTC),
        updated_at=row.updated_at.replace(tzinfo=UTC),
        host=row.host,
        result=row.result,
        error=row.error,
    )

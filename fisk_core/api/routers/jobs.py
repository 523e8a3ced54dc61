# SPDX-License-Identifier: Apache-2.0
"""Jobs: long work, submitted, watched and cancelled."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import OPERATOR, READER
from fisk_core.api.models import Creation, IdInPath, Options
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import Job

router = Operations("jobs")

_STATES = Literal["queued", "running", "done", "failed", "cancelled"]
_ERRORS = (errors.NotFound, errors.AlreadyExists, errors.InUse, errors.Unsupported)


@dataclass(frozen=True, slots=True)
class JobList:
    """Jobs, oldest first; those that are over are kept for a week."""

    jobs: list[Job]


class NewJob(Creation):
    """Work of one of the kinds, with the arguments that kind takes; see the manual."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,63}$", examples=["collect"])]
    arguments: Options = {}


@router.operation("POST", "/jobs", rule="jobs:create", role=OPERATOR, gives=Job, status=201, may=_ERRORS)
def create_job(services: Given, new: NewJob) -> Job:
    """Have long work done by this host; paths must be below the directories its configuration allows."""
    return services.runner.submit(new.kind, new.arguments, id=new.id)


@router.operation("GET", "/jobs", rule="jobs:list", role=READER, gives=JobList)
def list_jobs(
    services: Given,
    state: Annotated[_STATES | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    host: Annotated[str | None, Query(max_length=limits.MAX_NAME)] = None,
) -> JobList:
    """List the jobs of all hosts."""
    return JobList(services.runner.list(state=state, kind=kind, host=host))


@router.operation("GET", "/jobs/{id}", rule="jobs:list", role=READER, gives=Job, may=(errors.NotFound,))
def get_job(services: Given, id: IdInPath) -> Job:
    """Show a job."""
    return services.runner.get(id)


@router.operation(
    "DELETE", "/jobs/{id}", rule="jobs:cancel", role=OPERATOR, gives=Job, may=(errors.NotFound,)
)
def cancel_job(services: Given, id: IdInPath) -> Job:
    """Have a job end and undo what it began; one that is over stays as it is."""
    return services.runner.cancel(id)

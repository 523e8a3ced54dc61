# SPDX-License-Identifier: Apache-2.0
"""Schedules: periodic snapshots, and which of them stay."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime, BeforeValidator, Field

from fisk_core import errors
from fisk_core.api import limits, models
from fisk_core.api.identity import OPERATOR, READER
from fisk_core.api.models import NAME, Body, Creation, IdInPath, Name, Ref
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import Retention, Schedule
from fisk_core.services import schedules

router = Operations("schedules")

_ERRORS = (errors.NotFound, errors.AlreadyExists)
Interval = Annotated[int, Field(ge=schedules.MIN_INTERVAL, le=schedules.MAX_INTERVAL, description="seconds")]
Expiry = Annotated[int, Field(ge=1, le=100 * schedules.MAX_INTERVAL, description="seconds")]
Prefix = Annotated[Name, Field(max_length=schedules.MAX_PREFIX)]
Time = Annotated[AwareDatetime, BeforeValidator(models.moment), Field(strict=False)]
Count = Annotated[int, Field(ge=0, le=schedules.MAX_KEPT)]


@dataclass(frozen=True, slots=True)
class ScheduleList:
    """Schedules, oldest first."""

    schedules: list[Schedule]


class Keep(Body):
    """Which snapshots stay: the newest ones, and the newest of so many hours, days, weeks."""

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0


class NewSchedule(Creation):
    """A snapshot of ``fisk`` every ``interval`` seconds, the first at ``start``, by default now."""

    fisk: Ref
    interval: Interval
    retention: Keep = Keep()
    prefix: Prefix = "auto"
    expire: Expiry | None = None
    expendable: bool = False
    enabled: bool = True
    start: Time | None = None


class ScheduleChanges(Body):
    """What shall be different; what is not mentioned stays, and ``expire`` null is for ever."""

    interval: Interval | None = None
    retention: Keep | None = None
    prefix: Prefix | None = None
    expire: Expiry | None = None
    expendable: bool | None = None
    enabled: bool | None = None
    next_run: Time | None = None


@router.operation(
    "POST", "/schedules", rule="schedules:create", role=OPERATOR, gives=Schedule, status=201, may=_ERRORS
)
def create_schedule(services: Given, new: NewSchedule) -> Schedule:
    """Have snapshots of a Fisk taken regularly."""
    options = new.model_dump(exclude={"fisk", "interval", "retention"})
    kept = Retention(**new.retention.model_dump())
    return schedules.create(services.engine, new.fisk, new.interval, retention=kept, **options)


@router.operation(
    "GET", "/schedules", rule="schedules:list", role=READER, gives=ScheduleList, may=(errors.NotFound,)
)
def list_schedules(
    services: Given, fisk: Annotated[str | None, Query(pattern=NAME, max_length=limits.MAX_REF)] = None
) -> ScheduleList:
    """List all schedules, or those of one Fisk."""
    return ScheduleList(schedules.select(services.engine, fisk))


@router.operation(
    "GET", "/schedules/{id}", rule="schedules:list", role=READER, gives=Schedule, may=(errors.NotFound,)
)
def get_schedule(services: Given, id: IdInPath) -> Schedule:
    """Show a schedule."""
    return schedules.get(services.engine, id)


@router.operation(
    "PATCH", "/schedules/{id}", rule="schedules:change", role=OPERATOR, gives=Schedule, may=(errors.NotFound,)
)
def change_schedule(services: Given, id: IdInPath, changes: ScheduleChanges) -> Schedule:
    """Change a schedule; another interval counts from now on."""
    values = changes.model_dump(exclude_unset=True)
    values = {key: value for key, value in values.items() if value is not None or key == "expire"}
    if "retention" in values:
        values["retention"] = Retention(**values["retention"])
    return schedules.change(services.engine, id, **values)


@router.operation("DELETE", "/schedules/{id}", rule="schedules:delete", role=OPERATOR)
def delete_schedule(services: Given, id: IdInPath) -> None:
    """End a schedule; its snapshots stay."""
    schedules.delete(services.engine, id)

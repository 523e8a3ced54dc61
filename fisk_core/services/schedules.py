# SPDX-License-Identifier: Apache-2.0
"""Schedules: snapshots of a Fisk every so often, and which of them stay.

Runs keep to their raster: a schedule begun at 12:00 with an hour between runs at 13:00 however late 12:00
was.  What was missed while nobody was there is made up for by one snapshot, and told by an event.

A run is done at least once, and has one snapshot however often it is done.  First the snapshot is taken, with
an id made of the schedule's id and the time at which the run was due; then one transaction moves ``next_run``
on, if it is still that time.  A process that dies before the snapshot has done nothing; one that dies before
``next_run`` moves leaves a run that is still due, whose snapshot the next one finds.  Of several hosts at the
same run, all make the same snapshot, and one moves it on.

A schedule's snapshots are the frozen Fisks of role ``snapshot`` whose attribute ``fisk:schedule`` is its id.
Who gives one another role, or removes the attribute, keeps it.
"""

import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fisk_core.catalog import fisks
from fisk_core.catalog import schedules as rows
from fisk_core.catalog.database import clock
from fisk_core.catalog.schedules import Labelled
from fisk_core.errors import AlreadyExists, FiskError, InUse, InvalidValue, LimitExceeded, NotFound
from fisk_core.model import Fisk, Retention, Schedule
from fisk_core.services import events
from fisk_core.services.retention import superfluous

if TYPE_CHECKING:
    from fisk_core.engine import Engine

LOG = logging.getLogger(__name__)

SCHEDULE = "fisk:schedule"
"""Attribute of a snapshot: the id of the schedule that took it."""
EXPIRES = "expires"
"""Attribute: when a snapshot goes, ISO 8601."""
EXPENDABLE = "expendable"
"""Attribute, ``true``: the snapshot may be removed when its pool passes its high-water mark."""
MIN_INTERVAL = 60
MAX_INTERVAL = 366 * 24 * 3600
MAX_KEPT = 10_000
MAX_PREFIX = 64
MAX_SCHEDULES = 32
"""Schedules of one Fisk."""
_PREFIX = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:+@=-]{{0,{MAX_PREFIX - 1}}}")
STAMP = "%Y%m%dT%H%M%SZ"
_RUNS = uuid.UUID("6f0a5c3e-9d14-4b7a-8e52-c1d7f3a80b96")
"""The name space of the ids of snapshots."""
Schedules = list[Schedule]


def create(
    engine: "Engine",
    ref: str,
    interval: int,
    *,
    retention: Retention = Retention(),  # noqa: B008  (immutable)
    prefix: str = "auto",
    expire: int | None = None,
    expendable: bool = False,
    enabled: bool = True,
    start: datetime | None = None,
    id: str | None = None,
) -> Schedule:
    """Have a snapshot taken every ``interval`` seconds, the first at ``start`` (default: now).

    ``expire`` is how many seconds each lives at most.  The same id again gives the schedule made before.
    Raises NotFound, InvalidValue, LimitExceeded, AlreadyExists.
    """
    schedule_id, fisk = (id or fisks.new_id()).lower(), engine.get(ref)
    if not fisks.is_id(schedule_id):
        raise InvalidValue(f"'{schedule_id}' is not an id (a UUID)")
    if fisk.frozen:
        raise InvalidValue(f"Fisk '{fisk.name}' is frozen; there is nothing to take snapshots of")
    with engine.catalog.change() as conn:
        now = clock(conn).replace(tzinfo=UTC)
        first = (start or now).astimezone(UTC) if start is None or start.tzinfo else start.replace(tzinfo=UTC)
        wanted = Schedule(
            schedule_id, fisk.id, interval, retention, first, now, prefix, expire, expendable, enabled
        )
        _validate(wanted)
        known = rows.try_find(conn, schedule_id)
        if known is not None:
            return _same(known, wanted)
        if len(rows.every(conn, fisk.id)) >= MAX_SCHEDULES:
            raise LimitExceeded(f"a Fisk can have {MAX_SCHEDULES} schedules")
        fisks.find(conn, fisk.id)
        rows.add(conn, wanted)
    return wanted


def get(engine: "Engine", schedule_id: str) -> Schedule:
    """Give a schedule; raises NotFound."""
    with engine.catalog.read() as conn:
        return rows.find(conn, schedule_id.lower())


def select(engine: "Engine", ref: str | None = None) -> Schedules:
    """Give all schedules, or those of one Fisk; raises NotFound."""
    fisk_id = None if ref is None else engine.find(ref).id
    with engine.catalog.read() as conn:
        return rows.every(conn, fisk_id)


def change(engine: "Engine", schedule_id: str, **values: Any) -> Schedule:
    """Change interval, retention, prefix, expire, expendable, enabled or next_run.

    Another interval counts from now on; one enabled again does not make up for what it missed.  What
    snapshots it took before keep their expiry.  Raises NotFound, InvalidValue.
    """
    allowed = {"interval", "retention", "prefix", "expire", "expendable", "enabled", "next_run"}
    if unknown := set(values) - allowed:
        raise InvalidValue(f"'{min(unknown)}' of a schedule cannot be changed")
    with engine.catalog.change() as conn:
        found = rows.find(conn, schedule_id.lower())
        now = clock(conn).replace(tzinfo=UTC)
        changed = replace(found, **values)
        _validate(changed)
        if "next_run" not in values:
            if changed.interval != found.interval:
                changed = replace(changed, next_run=now + timedelta(seconds=changed.interval))
            elif changed.enabled and not found.enabled:
                changed = replace(changed, next_run=_following(changed, now)[0])
        rows.replace(conn, changed)
    return changed


def delete(engine: "Engine", schedule_id: str) -> None:
    """End a schedule; its snapshots stay (and go when they expire).  One that is gone is no error."""
    with engine.catalog.change() as conn:
        rows.remove(conn, schedule_id.lower())


def _validate(schedule: Schedule) -> None:
    if not MIN_INTERVAL <= schedule.interval <= MAX_INTERVAL:
        raise InvalidValue(f"a schedule runs every {MIN_INTERVAL} seconds to 366 days")
    if schedule.expire is not None and not 1 <= schedule.expire <= 100 * MAX_INTERVAL:
        raise InvalidValue("snapshots expire after 1 second to 100 years")
    kept = schedule.retention
    if not all(0 <= count <= MAX_KEPT for count in (kept.last, kept.hourly, kept.daily, kept.weekly)):
        raise InvalidValue(f"retention keeps 0 to {MAX_KEPT} snapshots of each sort")
    if not _PREFIX.fullmatch(schedule.prefix):
        raise InvalidValue(
            f"'{schedule.prefix}' is not the beginning of a name, of at most {MAX_PREFIX} characters"
        )


def _same(known: Schedule, wanted: Schedule) -> Schedule:
    if replace(known, next_run=wanted.next_run, created_at=wanted.created_at) != wanted:
        raise AlreadyExists(f"there is another schedule with id {known.id} already")
    return known


# Running


def due(engine: "Engine") -> tuple[Schedules, datetime]:
    """Give the schedules with a run that is due, and the time (UTC) at which that was asked."""
    with engine.catalog.read() as conn:
        now = clock(conn)
        return rows.due(conn, now), now.replace(tzinfo=UTC)


def next_due(engine: "Engine", after: datetime) -> timedelta | None:
    """Give how long it is until the first run that was not due at ``after`` yet; None when there is none."""
    with engine.catalog.read() as conn:
        following, now = rows.next_run(conn, after.replace(tzinfo=None)), clock(conn)
    return None if following is None else following - now


def _following(schedule: Schedule, now: datetime) -> tuple[datetime, int]:
    """Give the first run after ``now``, and how many whole ones have passed since the one that is due."""
    step = timedelta(seconds=schedule.interval)
    passed = max(0, (now - schedule.next_run) // step)
    return schedule.next_run + max(0, passed + (now >= schedule.next_run)) * step, passed


def run(engine: "Engine", schedule: Schedule) -> Fisk | None:
    """Do a run that is due, then remove what need not be kept.

    Gives its snapshot, None when the schedule (its Fisk) is gone or another did this run.  Raises what keeps
    the snapshot from being taken: the run stays due.
    """
    try:
        taken = _take(engine, schedule)
    except NotFound:
        with engine.catalog.read() as conn:
            if rows.try_find(conn, schedule.id) is not None:
                raise
        return None
    if not _move_on(engine, schedule):
        return None
    prune(engine, schedule)
    return taken


def snapshot_id(schedule: Schedule) -> str:
    """Give the id of the snapshot of the run that is due next."""
    return str(uuid.uuid5(_RUNS, f"{schedule.id} {schedule.next_run.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"))


def _move_on(engine: "Engine", schedule: Schedule) -> bool:
    """Have the next run wait for its time; False when another was faster, or the schedule is another now."""
    with engine.catalog.change() as conn:
        now = clock(conn).replace(tzinfo=UTC)
        following, missed = _following(schedule, now)
        if not rows.move_on(conn, schedule, following):
            return False
        if missed:
            told = {"schedule": schedule.id, "missed": missed}
            events.emit(conn, "schedule.missed", schedule.fisk_id, **told)
    return True


def _take(engine: "Engine", schedule: Schedule) -> Fisk:
    """Take the snapshot of the run that is due, or find the one that was taken for it before."""
    try:
        return engine.get(snapshot_id(schedule))
    except NotFound:
        pass
    with engine.catalog.read() as conn:
        now = clock(conn).replace(tzinfo=UTC)
    labels = {SCHEDULE: schedule.id}
    if schedule.expendable:
        labels[EXPENDABLE] = "true"
    if schedule.expire is not None:
        labels[EXPIRES] = f"{now + timedelta(seconds=schedule.expire):%Y-%m-%dT%H:%M:%SZ}"
    try:
        return _snapshot(engine, schedule, now, labels)
    except AlreadyExists as exc:
        try:  # another host took it at the same time, under its own name
            return engine.get(snapshot_id(schedule))
        except NotFound:
            raise exc from None


def _snapshot(engine: "Engine", schedule: Schedule, now: datetime, labels: dict[str, str]) -> Fisk:
    """Take it; a name that is taken (two schedules with one prefix) gets some of the schedule's id."""
    stamp = now.strftime(STAMP)
    source = engine.get(schedule.fisk_id).name[: 255 - MAX_PREFIX - len(stamp) - 12]
    name, own_id = f"{schedule.prefix}-{source}-{stamp}", snapshot_id(schedule)
    try:
        return engine.snapshot(schedule.fisk_id, name, attributes=labels, id=own_id)
    except AlreadyExists:
        name = f"{name}-{schedule.id[:8]}"
        return engine.snapshot(schedule.fisk_id, name, attributes=labels, id=own_id)


def prune(engine: "Engine", schedule: Schedule) -> list[str]:
    """Remove the snapshots of a schedule that its retention does not keep; gives their names."""
    with engine.catalog.read() as conn:
        taken = rows.labelled(conn, SCHEDULE, schedule.id)
    surplus = superfluous([each.created_at for each in taken], schedule.retention)
    return remove(engine, [taken[index] for index in surplus])


def remove(engine: "Engine", snapshots: Sequence[Labelled]) -> list[str]:
    """Delete snapshots; one that is being read stays until the next time.  Gives the names of the others."""
    gone = []
    for fisk in snapshots:
        try:
            engine.delete(fisk.id)
        except NotFound:
            continue
        except InUse:
            LOG.info("snapshot %s is in use and stays for now", fisk.name)
            continue
        except FiskError as exc:
            LOG.warning("snapshot %s could not be removed: %s", fisk.name, exc)
            continue
        gone.append(fisk.name)
    return gone


def expired(engine: "Engine") -> list[str]:
    """Remove the snapshots whose attribute ``expires`` has passed; gives their names."""
    with engine.catalog.read() as conn:
        now = clock(conn).replace(tzinfo=UTC)
        found = rows.labelled(conn, EXPIRES)
    return remove(engine, [each for each in found if _is_over(each.value, now)])


def _is_over(text: str, now: datetime) -> bool:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return False  # whatever it means, it is no reason to remove something
    return (when if when.tzinfo else when.replace(tzinfo=UTC)) <= now

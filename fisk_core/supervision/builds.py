# SPDX-License-Identifier: Apache-2.0
"""Builds: hidden Fisks that are written by NBD, and shown when they are complete.

A build is a Fisk in state ``building`` whose worker holds its lock, and a row among the attachments (access
``build``) that has it kept like any other worker: it outlives the supervisor, and a worker that dies is
started again, so that a client that reconnects goes on.

An abandoned build is removed

- when no client was connected to its worker for ``[workers] build_idle`` seconds (since the supervisor was
  started, at the earliest);
- when its worker is gone, and no supervisor starts it again, by whoever wants its name, or by a check that
  repairs.

``finish``: the worker makes everything durable and ends; the Fisk's lock is taken; the map is sealed; one
transaction shows the Fisk and forgets the row.  A crash before that transaction leaves a build whose worker
is started again: finish may be repeated.  The operation lock is held from before the worker ends until the
lock is ours, so that nobody takes the build for abandoned in between.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.catalog import Record, attachments, fisks
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.engine import building, lifecycle, validate
from fisk_core.errors import AlreadyExists, FiskError, InUse, NotFound
from fisk_core.model import Fisk, State
from fisk_core.services import sweep
from fisk_core.supervision import keeping
from fisk_core.supervision.core import BUILD, Core
from fisk_core.supervision.shapes import Build
from fisk_core.supervision.workers import Entry, find_record

LOG = logging.getLogger(__name__)


def begin(core: Core, name: str, *, id: str | None = None, size: int, **options: Any) -> Build:
    """Make a hidden Fisk and serve it; the same id again gives the build begun before."""
    fisk_id = validate.fisk_id(id)
    with core.workers.entry(fisk_id) as entry, core.operation(fisk_id):
        if id is not None and (record := find_record(core.engine, fisk_id)) is not None:
            return _begun(core, record, name)
        _, lock = building.reserve(
            core.engine,
            name,
            size=size,
            id=fisk_id,
            also=lambda conn, made: attachments.add(conn, _row(core, made, name)),
            **options,
        )
        try:
            core.workers.launch(entry, _record(core, fisk_id), lock, writable=True, epoch=0, export=name)
        except BaseException:
            _remove(core, entry)
            raise
    return _build(core, fisk_id, name)


def _row(core: Core, fisk_id: str, name: str) -> AttachmentRow:
    return AttachmentRow(
        id=fisk_id,
        fisk_id=fisk_id,
        host=core.host,
        access=BUILD,
        read_only=False,
        epoch=0,
        consumer="",
        details={"export": name},
    )


def _record(core: Core, fisk_id: str) -> Record:
    with core.engine.catalog.read() as conn:
        return fisks.find(conn, fisk_id, building=True)


def _begun(core: Core, record: Record, name: str) -> Build:
    if record.state != State.BUILDING or record.name != name or core.row(record.id) is None:
        raise AlreadyExists(f"there is a Fisk with id {record.id} already, and it is no build of '{name}'")
    return _build(core, record.id, name)


def _build(core: Core, fisk_id: str, name: str) -> Build:
    core.exports.publish(fisk_id, fisk_id, False)
    uris = core.exports.uris(fisk_id, fisk_id, name, core.network.address, read_only=False)
    return Build(fisk_id, uris[0], tuple(uris))


def finish(
    core: Core, fisk_id: str, *, size: int, frozen: bool, attributes: Mapping[str, str] | None = None
) -> Fisk:
    """Make a build durable and show it; one that is shown already is given as it is.

    Raises NotFound, and what a failing flush raises; the build then goes on.
    """
    fisk_id = validate.fisk_id(fisk_id)
    validate.size(size)
    validate.set_attributes(attributes)
    with core.workers.entry(fisk_id) as entry, core.operation(fisk_id):
        record = find_record(core.engine, fisk_id)
        if record is not None and record.state != State.BUILDING:
            return lifecycle.get(core.engine, fisk_id)
        if record is None or core.row(fisk_id) is None:
            core.home.operation(fisk_id).unlink(missing_ok=True)
            raise NotFound(f"there is no build {fisk_id}")
        try:
            core.workers.finish(entry)
            with locks.acquire(core.home.lock(fisk_id)):
                made = building.show(
                    core.engine,
                    fisk_id,
                    size=size,
                    frozen=frozen,
                    attributes=attributes,
                    also=lambda conn: _forget(conn, fisk_id),
                )
            core.exports.withdraw(fisk_id)
            return made
        except FiskError:
            core.watch.soon(lambda: keeping.restart(core, fisk_id))
            raise


def _forget(conn: Connection, fisk_id: str) -> None:
    attachments.remove(conn, fisk_id)


def abort(core: Core, fisk_id: str) -> None:
    """Leave no trace of a build; one that is gone or shown already stays as it is."""
    fisk_id = validate.fisk_id(fisk_id)
    with core.workers.entry(fisk_id) as entry:
        record = find_record(core.engine, fisk_id)
        if record is None or record.state != State.BUILDING:
            return
        if core.row(fisk_id) is None:
            raise InUse(f"Fisk '{record.name}' is being built by a process of its own")
        with core.operation(fisk_id):
            _remove(core, entry)


def _remove(core: Core, entry: Entry) -> None:
    core.exports.withdraw(entry.fisk_id)
    core.workers.stop(entry, orderly=False)
    if record := find_record(core.engine, entry.fisk_id):
        core.home.journal(record.map_id).unlink(missing_ok=True)
    sweep.remove_building(core.engine, entry.fisk_id, locks.acquire(core.home.lock(entry.fisk_id)))
    core.home.operation(entry.fisk_id).unlink(missing_ok=True)


def look(core: Core) -> None:
    """Remove the builds whose clients have been gone for long."""
    for row in core.rows():
        if row.access != BUILD:
            continue
        with core.workers.entry(row.fisk_id) as entry:
            idle = _idle(core, entry)
        if idle >= core.settings.workers.build_idle:
            LOG.warning("the build of Fisk %s has no client for %d s; removing it", row.fisk_id, idle)
            abort(core, row.fisk_id)


def _idle(core: Core, entry: Entry) -> float:
    """Give the seconds for which no client was seen."""
    if entry.worker is None:
        return 0.0
    try:
        connections = core.workers.status(entry.fisk_id)["connections"]
    except FiskError as exc:
        LOG.info("the worker of build %s does not say who is connected: %s", entry.fisk_id, exc)
        return 0.0
    if connections:
        entry.idle_since = None
        return 0.0
    now = time.monotonic()
    entry.idle_since = entry.idle_since or now
    return now - entry.idle_since

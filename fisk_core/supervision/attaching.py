# SPDX-License-Identifier: Apache-2.0
"""Attach and detach.

Order of attach, all within the Fisk's entry:

1. under the Fisk's operation lock: the Fisk's lock is taken, then one transaction writes the row, marked
   pending, and the epoch of the lease, then the worker is started; it holds the lock from here on;
2. the route of the network is published;
3. the details of the access path are noted on this host, and in the row, then it is connected;
4. one transaction: the row is not pending any more, the event.

A crash before 1's transaction leaves nothing: the lock ends with the process.  Later, before 4, it leaves a
pending row; nobody was told of the attachment, so whoever supervises next undoes it: disconnects, withdraws,
ends a worker no other row needs, removes the row.  After 4 the attachment exists, and lasts.

Order of detach: the route, the access path, the worker unless it is needed, the row and the event.  A crash
before the last leaves an attachment whose worker the next supervisor starts again; detach may be repeated.

An attachment that has to wait for its turn (``incoming``) is on the page of that module.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from fisk_core.catalog import Record, attachments, leases
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.engine.operating import operating
from fisk_core.errors import AlreadyExists, FiskError, InUse, NotFound, ReadOnly
from fisk_core.model import Attachment
from fisk_core.services import events
from fisk_core.supervision import fencing, incoming, shapes
from fisk_core.supervision.core import Core, details_of, export_of, is_pending, is_waiting
from fisk_core.supervision.workers import Entry

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What attach was asked for."""

    id: str
    fisk_id: str
    access: str
    read_only: bool
    consumer: str = ""
    steal: bool = False
    incoming: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def attach(core: Core, wanted: Wanted) -> Attachment:
    """Make the attachment, or give the one that has its id; raises AlreadyExists if that is another."""
    core.driver(wanted.access)  # complains before anything is made
    with core.workers.entry(wanted.fisk_id) as entry:
        row = _known(core, wanted)
        if row is not None and not is_pending(row):
            return shapes.attachment(row)
        core.workers.alive(entry)  # one that ended is started again before the operation lock is held here
        incoming.end_forgotten(core, entry)
        try:
            with operating(core.engine, wanted.fisk_id) as (record,):
                waits = _check(core, record, wanted)
                row = (_line_up if waits else _enter)(core, entry, record, wanted, pending=row)
            if waits:
                # Without the operation lock: a writer that is being started again needs it, to answer.
                incoming.start(core, entry, row)
            made = _connect(core, row)
            if waits:
                incoming.listen(core, wanted.fisk_id)
            return made
        except BaseException:
            undo(core, entry, wanted.id)
            raise


def _known(core: Core, wanted: Wanted) -> AttachmentRow | None:
    row = core.row(wanted.id)
    if row is None:
        return None
    same = (row.fisk_id, row.host, row.access, row.read_only) == (
        wanted.fisk_id,
        core.host,
        wanted.access,
        wanted.read_only,
    )
    if not same:
        raise AlreadyExists(f"there is an attachment with id {row.id} already, and it is another")
    return row


def _check(core: Core, record: Record, wanted: Wanted) -> bool:
    """Raise what forbids the attachment; the caller holds the operation lock.

    Says whether it has to wait for its turn.
    """
    if record.frozen:
        if not wanted.read_only:
            raise ReadOnly(f"Fisk '{record.name}' is frozen; attach it read-only, or clone it")
        return False
    rows = [row for row in core.rows(record.id, everywhere=True) if row.id != wanted.id]
    if waiting := [row for row in rows if is_waiting(row) and (row.host == core.host or wanted.incoming)]:
        raise InUse(
            f"Fisk '{record.name}' waits for its turn on {waiting[0].host}; detach or promote it first"
        )
    elsewhere = [
        row
        for row in rows
        if row.host != core.host and not is_waiting(row) and not (row.read_only and wanted.read_only)
    ]
    if elsewhere and wanted.incoming:
        incoming.check(core, record, rows, wanted.access)
        return True
    if elsewhere and not wanted.steal:
        raise InUse(f"Fisk '{record.name}' is attached on {elsewhere[0].host}; detach it there, or steal it")
    for row in rows:
        if row.host == core.host and (_is_exclusive(core, row) or _wants_alone(core, wanted)):
            raise InUse(
                f"Fisk '{record.name}' is attached as '{row.access}'; that and this exclude each other"
            )
    return False


def _line_up(
    core: Core, entry: Entry, record: Record, wanted: Wanted, pending: AttachmentRow | None
) -> AttachmentRow:
    """Write the pending row of an attachment that waits for its turn."""
    # Of this attempt alone: what a writer answered to one before may be out of date.
    token = str(uuid4())
    details = details_of(pending=True, export=record.name, options=dict(wanted.options), incoming=token)
    row = AttachmentRow(wanted.id, record.id, core.host, wanted.access, False, 0, wanted.consumer, details)
    with core.engine.catalog.change() as conn:
        if pending is not None:
            attachments.remove(conn, wanted.id)
        attachments.add(conn, row)
    return row


def _is_exclusive(core: Core, row: AttachmentRow) -> bool:
    return not row.read_only and core.driver(row.access).exclusive


def _wants_alone(core: Core, wanted: Wanted) -> bool:
    return not wanted.read_only and core.driver(wanted.access).exclusive


def _enter(
    core: Core, entry: Entry, record: Record, wanted: Wanted, pending: AttachmentRow | None
) -> AttachmentRow:
    """Write the pending row, with the Fisk's lock held and its worker started; gives the row."""
    rows = [row for row in core.rows(record.id) if row.id != wanted.id]
    export = export_of(rows, record.name)
    details = details_of(pending=True, export=export, options=dict(wanted.options))
    written: list[AttachmentRow] = []

    def note(conn: Connection, epoch: int) -> None:
        if pending is not None:
            attachments.remove(conn, wanted.id)
        if wanted.steal:
            incoming.forget_elsewhere(core, conn, record.id, stolen=True)
        if epoch:
            attachments.set_epoch(conn, record.id, core.host, epoch)
        mine = 0 if wanted.read_only else epoch
        row = AttachmentRow(
            wanted.id, record.id, core.host, wanted.access, wanted.read_only, mine, wanted.consumer, details
        )
        attachments.add(conn, row)
        written.append(row)

    writable = not (wanted.read_only and all(row.read_only for row in rows))
    worker = core.workers.alive(entry) or core.workers.find(entry)
    if worker is not None and writable and worker.read_only and not record.frozen:
        core.workers.stop(entry)  # its clients come back to the same address, and find the writer
        worker = None
    if worker is None and core.driver(wanted.access).needs_worker:
        patience = fencing.take_over(core, record) if wanted.steal else 0.0
        core.workers.start(entry, record, writable=writable, export=export, also=note, timeout=patience)
    else:
        with core.engine.catalog.change() as conn:
            note(conn, worker.epoch if worker else 0)
        entry.lingering = False
    return written[-1]


def _connect(core: Core, row: AttachmentRow) -> Attachment:
    """Do what follows once the worker serves; the attachment exists when this returns."""
    driver = core.driver(row.access)
    uris: list[str] = []
    if driver.needs_worker:
        core.exports.publish(row.id, row.fisk_id, row.read_only)
        uris = _uris(core, row)
    planned = driver.plan(
        core.engine.get(row.fisk_id),
        uris[0] if uris else None,
        core.home.details(row.id),
        read_only=row.read_only,
        options=row.details.get("options", {}),
    )
    if planned:
        core.notes.write(row.id, row.access, planned)
        store(core, row.id, {**row.details, "access": planned})
    path = driver.connect(planned)
    details = {**row.details, "uris": uris, **details_of(access=planned, path=path)}
    del details["pending"]
    with core.engine.catalog.change() as conn:
        values: dict[str, Any] = {"details": details}
        if not driver.needs_worker and not row.read_only:
            values["epoch"] = leases.epoch(conn, row.fisk_id)  # it took the lease itself
        attachments.change(conn, row.id, **values)
        shown = {"host": row.host, "access": row.access, "read_only": row.read_only}
        events.emit(conn, "fisk.attached", row.fisk_id, id=row.id, consumer=row.consumer, **shown)
        made = attachments.try_find(conn, row.id)
    if made is None:
        raise NotFound(f"Fisk {row.fisk_id} was deleted while it was being attached")
    return shapes.attachment(made)


def _uris(core: Core, row: AttachmentRow) -> list[str]:
    export, address = str(row.details["export"]), core.network.address
    return core.exports.uris(row.id, row.fisk_id, export, address, read_only=row.read_only)


def store(core: Core, attachment_id: str, details: Mapping[str, Any]) -> None:
    with core.engine.catalog.change() as conn:
        attachments.change(conn, attachment_id, details=dict(details))


def undo(core: Core, entry: Entry, attachment_id: str) -> None:
    """Leave nothing of an attach that failed or was interrupted; what resists is logged and stays."""
    try:
        row = core.row(attachment_id)
        if row is None:
            if entry.worker and not core.rows(entry.fisk_id) and not entry.lingering:
                core.workers.stop(entry)
        elif is_pending(row):
            end_use(core, entry, row, force=True)
            _forget(core, row)
    except FiskError as exc:
        LOG.warning("attachment %s could not be undone for now: %s", attachment_id, exc)


def detach(core: Core, attachment_id: str, *, force: bool) -> None:
    """End an attachment of this host, or, forced, one of another host that is fenced then."""
    row = core.row(attachment_id)
    if row is None:
        return
    with core.workers.entry(row.fisk_id) as entry:
        row = core.row(attachment_id)
        if row is None:
            return
        if row.host != core.host:
            _detach_elsewhere(core, row, force)
            return
        end_use(core, entry, row, force=force)
        _forget(core, row)


def _detach_elsewhere(core: Core, row: AttachmentRow, force: bool) -> None:
    if not force:
        raise InUse(f"attachment {row.id} is on {row.host}; detach it there, or force")
    with core.operation(row.fisk_id):
        if is_waiting(row):
            incoming.withdraw(core, row.fisk_id, row.host)
        elif not row.read_only:
            fencing.fence(core, row.fisk_id)
        _forget(core, row)


def _forget(core: Core, row: AttachmentRow) -> None:
    with core.engine.catalog.change() as conn:
        if attachments.remove(conn, row.id) and not is_pending(row):
            events.emit(conn, "fisk.detached", row.fisk_id, id=row.id, host=row.host, consumer=row.consumer)


def end_use(core: Core, entry: Entry, row: AttachmentRow, *, force: bool) -> None:
    """Undo all of an attachment but its row."""
    core.exports.withdraw(row.id)
    if is_waiting(row):
        incoming.withdraw(core, row.fisk_id)
    disconnect(core, row.id, force=force)
    if not core.needs_worker(row):
        return
    others = [each for each in core.rows(row.fisk_id) if each.id != row.id and core.needs_worker(each)]
    if not others:
        end_worker(core, entry, hurry=force)


def disconnect(core: Core, attachment_id: str, *, force: bool) -> None:
    """Take an access path away; harmless when there is none."""
    if note := core.notes.read(attachment_id):
        core.driver(note.access).disconnect(note.details, force=force)
        core.notes.remove(attachment_id)


def end_worker(core: Core, entry: Entry, *, hurry: bool = False) -> None:
    """Stop the worker that no attachment needs; one of a frozen Fisk stays a while for the next reader."""
    worker = core.workers.alive(entry) or core.workers.find(entry)
    seconds = core.settings.workers.reader_linger
    if worker is not None and worker.read_only and seconds and _is_frozen(core, entry.fisk_id):
        entry.lingering = True
        core.watch.later(seconds, lambda: stop_unused(core, entry.fisk_id, worker.pid))
        return
    with core.operation(entry.fisk_id):
        core.workers.stop(entry, hurry=hurry)


def _is_frozen(core: Core, fisk_id: str) -> bool:
    with suppress(NotFound):
        return core.engine.find(fisk_id).frozen
    return False


def stop_unused(core: Core, fisk_id: str, pid: int) -> None:
    """Stop a worker that still lingers."""
    with core.workers.entry(fisk_id) as entry:
        if entry.lingering and entry.worker is not None and entry.worker.pid == pid:
            with core.operation(fisk_id):
                core.workers.stop(entry)


def resume(core: Core, rows: Sequence[AttachmentRow]) -> None:
    """Make what attachments that exist are owed, where it is not there: routes and access paths."""
    for row in rows:
        if not core.needs_worker(row):
            repair(core, row)
            continue
        core.exports.publish(row.id, row.fisk_id, row.read_only)
        uris = _uris(core, row)
        if list(row.details.get("uris", ())) != uris:
            store(core, row.id, {**row.details, "uris": uris})
        repair(core, row)


def repair(core: Core, row: AttachmentRow) -> None:
    """Connect an access path again if something of it is not there any more."""
    details = dict(row.details.get("access", {}))
    if not details or core.driver(row.access).alive(details):
        return
    LOG.warning("access path '%s' of Fisk %s is not there; connecting it again", row.access, row.fisk_id)
    path = core.driver(row.access).connect(details)
    if path != row.details.get("path"):
        store(core, row.id, {**row.details, "path": path})

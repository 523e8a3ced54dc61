# SPDX-License-Identifier: Apache-2.0
"""Keeps what is attached served: starts workers again, finds those of before, gives up what others took.

A worker that ends while somebody needs it is started again at once, at the same address, under a new epoch;
if it ends soon several times, after pauses that grow.  The Fisk's operation lock is held meanwhile, so a
snapshot or a deletion either finds a worker or nobody.  A row whose Fisk is gone went with it; one whose
epoch is below a lease that another host has taken lost the Fisk to it, and is removed.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.catalog import Record, attachments, leases
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.dataplane.fence import read_fence
from fisk_core.engine import recovery
from fisk_core.errors import FiskError, InvalidValue
from fisk_core.model import State
from fisk_core.services import events
from fisk_core.supervision import attaching, incoming
from fisk_core.supervision.core import BUILD, Core, export_of, is_pending, is_waiting
from fisk_core.supervision.processes import has_ended
from fisk_core.supervision.workers import Entry, Worker, find_record

LOG = logging.getLogger(__name__)
_AT_ONCE = 3
"""times in a row that a worker is started again without a pause"""
_FIRST_PAUSE = 0.1
_FENCED_SECONDS = 60.0
_LEAVE_SECONDS = 30.0
_MISSING = "is not there"


def ended(core: Core, fisk_id: str, worker: Worker) -> None:
    """A worker has ended; if nobody told it to, have another."""
    with core.workers.entry(fisk_id) as entry:
        if entry.worker is not worker:
            return
        healthy = core.settings.workers.healthy_seconds
        if time.monotonic() - worker.since >= healthy:
            entry.failures = 0
        status = core.workers.let_go(entry)
        if core.draining:
            return
        _start_or_try_later(core, entry, f"ended ({_words(status)})")


def _words(status: int | None) -> str:
    if status is None:
        return "not our child"
    return f"signal {-status}" if status < 0 else f"status {status}"


def restart(core: Core, fisk_id: str) -> None:
    """Start the worker of a Fisk if it is needed and not there; tries again later if that fails."""
    with core.workers.entry(fisk_id) as entry:
        if (entry.worker is None or entry.worker.waits) and not core.draining:
            _start_or_try_later(core, entry, _MISSING)


def _start_or_try_later(core: Core, entry: Entry, what: str) -> None:
    """Start it now after a first failure, later after several in a row."""
    pause = _pause(core, entry.failures)
    entry.failures += what is not _MISSING
    if pause and what is not _MISSING and core.rows(entry.fisk_id):
        LOG.warning("the worker of Fisk %s %s again; starting another in %.1f s", entry.fisk_id, what, pause)
        core.watch.later(pause, lambda: restart(core, entry.fisk_id))
        return
    try:
        _start(core, entry, what)
    except FiskError as exc:
        entry.failures += 1
        pause = max(_FIRST_PAUSE, _pause(core, entry.failures))
        LOG.warning("the worker of Fisk %s cannot be started yet: %s", entry.fisk_id, exc)
        core.watch.later(pause, lambda: restart(core, entry.fisk_id))


def _pause(core: Core, failures: int) -> float:
    """Give the seconds to wait after so many failures in a row."""
    if failures < _AT_ONCE:
        return 0.0
    return min(core.settings.workers.longest_pause, _FIRST_PAUSE * 2.0 ** min(failures - _AT_ONCE, 20))


def _start(core: Core, entry: Entry, what: str) -> None:
    with core.operation(entry.fisk_id):
        record = find_record(core.engine, entry.fisk_id)
        rows = [row for row in core.rows(entry.fisk_id) if core.needs_worker(row)]
        if record is not None and rows and _is_lost(core, record, rows):
            LOG.warning("Fisk %s was taken over by another host", entry.fisk_id)
            _give_up(core, entry, rows)
            return
        if record is None or not rows:
            _unneeded(core, entry)
            return
        waiting = [row for row in rows if is_waiting(row)]
        worker = entry.worker or core.workers.find(entry)
        if worker is None:
            LOG.warning("the worker of Fisk %s %s; starting one", entry.fisk_id, what)
        if not waiting and (worker is None or worker.waits):
            _launch(core, entry, record, rows)
    if waiting and entry.worker is None:
        incoming.start(core, entry, waiting[0])
        entry.restarts += 1
    if waiting:
        incoming.listen(core, entry.fisk_id)
    attaching.resume(core, [row for row in rows if row.access != BUILD and not is_pending(row)])


def _unneeded(core: Core, entry: Entry) -> None:
    if entry.worker is not None and entry.worker.waits:
        incoming.withdraw(core, entry.fisk_id)
    core.workers.stop(entry)
    _sweep(core)
    if find_record(core.engine, entry.fisk_id) is None:
        core.home.operation(entry.fisk_id).unlink(missing_ok=True)


def _sweep(core: Core) -> None:
    """Take away what attachments had that went with their Fisk, or to another host."""
    for note in core.notes.list():
        if core.row(note) is None:
            attaching.disconnect(core, note, force=True)
    core.exports.sweep(lambda: [row.id for row in core.rows()])


def _launch(core: Core, entry: Entry, record: Record, rows: Sequence[AttachmentRow]) -> None:
    export = export_of(rows, record.name)
    if record.state == State.BUILDING:
        lock = locks.acquire(core.home.lock(record.id))
        worker = core.workers.launch(entry, record, lock, writable=True, epoch=0, export=export)
    else:
        record = recovery.finish(core.engine, record)
        writable = not record.frozen and not all(row.read_only for row in rows)

        def note(conn: Connection, epoch: int) -> None:
            attachments.set_epoch(conn, record.id, core.host, epoch)

        if entry.worker is not None and entry.worker.waits:  # its turn had come when we crashed
            worker = core.workers.promote(entry, record, also=note)
            incoming.withdraw(core, record.id)
        else:
            worker = core.workers.start(entry, record, writable=writable, export=export, also=note)
    entry.restarts += 1
    with core.engine.catalog.change() as conn:
        events.emit(conn, "worker.restarted", record.id, host=core.host, pid=worker.pid, epoch=worker.epoch)


def _is_lost(core: Core, record: Record, rows: Sequence[AttachmentRow]) -> bool:
    """Say whether another host opened the Fisk for writing since our worker did."""
    mine = max((row.epoch for row in rows), default=0)
    if not mine or record.frozen:
        return False
    with core.engine.catalog.read() as conn:
        lease = leases.find(conn, record.id)
    return lease is not None and lease.epoch > mine and lease.host != core.host


def _give_up(core: Core, entry: Entry, rows: Sequence[AttachmentRow], *, moved: bool = False) -> None:
    """End the use of a Fisk that another host writes now; ``moved``: as it was meant to be."""
    for row in rows:
        core.exports.withdraw(row.id)
        if row.id in core.notes.list():
            try:
                attaching.disconnect(core, row.id, force=True)
            except FiskError as exc:
                LOG.warning("access path '%s' of Fisk %s stays: %s", row.access, row.fisk_id, exc)
    with core.engine.catalog.change() as conn:
        for row in rows:
            attachments.remove(conn, row.id)
        if not moved:
            ids = [row.id for row in rows]
            events.emit(conn, "worker.fenced", entry.fisk_id, host=core.host, attachments=ids)
    core.workers.stop(entry)
    _sweep(core)  # the other host may have removed the rows


# Looking now and then


def look(core: Core) -> None:
    """Find what nobody told of: workers that were fenced, or that no row needs any more."""
    needed: dict[str, list[AttachmentRow]] = {}
    for row in core.rows():
        needed.setdefault(row.fisk_id, []).append(row)
    for fisk_id, worker in core.workers.running().items():
        if worker.waits and fisk_id in needed:
            incoming.promote_unopposed(core, fisk_id)
        elif _is_fenced(core, fisk_id, worker):
            if not _takes_leave(core, fisk_id, worker):
                _fenced(core, fisk_id, worker)
        elif fisk_id not in needed:
            _stop_forgotten(core, fisk_id)
    for fisk_id, rows in needed.items():
        if any("access" in row.details for row in rows):
            _look_at_paths(core, fisk_id)


def _look_at_paths(core: Core, fisk_id: str) -> None:
    with core.workers.entry(fisk_id):
        for row in core.rows(fisk_id):
            if is_pending(row):
                continue
            try:
                attaching.repair(core, row)
            except FiskError as exc:
                LOG.warning("access path '%s' of Fisk %s is not there: %s", row.access, fisk_id, exc)


def _is_fenced(core: Core, fisk_id: str, worker: Worker) -> bool:
    if not worker.epoch:
        return False
    try:
        return read_fence(core.home.fence(fisk_id)) > worker.epoch
    except (OSError, InvalidValue) as exc:
        LOG.warning("the fence of Fisk %s cannot be read: %s", fisk_id, exc)
        return False


def _takes_leave(core: Core, fisk_id: str, worker: Worker) -> bool:
    """Say whether a worker that let go in order still has clients, who shall find out by themselves.

    A guest that moved away leaves a QEMU behind.  While that ends it would wait for its disks to come back,
    if nobody refused what it asks.
    """
    try:
        status = core.workers.status(fisk_id)
    except FiskError:
        return False
    if not status["yielded"] or not status["connections"]:
        return False
    _end_unused_paths(core)  # these are clients, too
    with core.workers.entry(fisk_id) as entry:
        if entry.worker is not worker:
            return True
        entry.left_at = entry.left_at or time.monotonic()
        return time.monotonic() - entry.left_at < _LEAVE_SECONDS


def _end_unused_paths(core: Core) -> None:
    """Take away what attachments that are gone had, where nobody uses it any more."""
    for note in core.notes.list():
        if core.row(note) is None:
            try:
                attaching.disconnect(core, note, force=False)
            except FiskError as exc:
                LOG.info("an access path of before stays for now: %s", exc)


def end_fenced(core: Core, fisk_id: str) -> None:
    """End a worker here that another host has fenced, before this host uses the Fisk again."""
    worker = core.workers.running().get(fisk_id)
    if worker is not None and _is_fenced(core, fisk_id, worker):
        _fenced(core, fisk_id, worker)


def _fenced(core: Core, fisk_id: str, worker: Worker) -> None:
    with core.workers.entry(fisk_id) as entry:
        if entry.worker is worker:
            _end_fenced(core, entry, worker)


def _end_fenced(core: Core, entry: Entry, worker: Worker) -> None:
    fisk_id = entry.fisk_id
    _await_fall(core, fisk_id, worker)
    moved = _has_yielded(core, fisk_id)
    if moved:
        LOG.info("Fisk %s moved to another host; its worker ends", fisk_id)
    else:
        LOG.warning("Fisk %s: another host takes over; its worker is being ended", fisk_id)
    _give_up(core, entry, [row for row in core.rows(fisk_id) if not is_waiting(row)], moved=moved)


def _has_yielded(core: Core, fisk_id: str) -> bool:
    try:
        return bool(core.workers.status(fisk_id)["yielded"])
    except FiskError:
        return False


def _await_fall(core: Core, fisk_id: str, worker: Worker) -> None:
    """Give the worker the time to see the fence itself, and to let go in order."""
    deadline = time.monotonic() + _FENCED_SECONDS
    while time.monotonic() < deadline and not has_ended(worker.pidfd, 0.05):
        try:
            if core.workers.status(fisk_id)["fenced"] and not locks.is_held(core.home.lock(fisk_id)):
                return
            if _held_by_another(core, fisk_id, worker):
                return
        except FiskError:
            return  # it does not answer any more


def _held_by_another(core: Core, fisk_id: str, worker: Worker) -> bool:
    """Say whether the next writer has the Fisk already: ours has let go of its lock, then."""
    with core.engine.catalog.read() as conn:
        return leases.epoch(conn, fisk_id) > worker.epoch


def _stop_forgotten(core: Core, fisk_id: str) -> None:
    with core.workers.entry(fisk_id) as entry:
        if entry.lingering or core.rows(fisk_id):
            return
        with core.operation(fisk_id):
            _unneeded(core, entry)


# Beginning


def adopt(core: Core) -> None:
    """Take over what the supervisor before left: the workers that run, the attachments that have none."""
    rows: dict[str, list[AttachmentRow]] = {}
    for row in core.rows():
        rows.setdefault(row.fisk_id, []).append(row)
    _sweep(core)
    marked = {path.stem for path in core.home.run.glob("*.worker")}
    for fisk_id in sorted(marked | rows.keys()):
        with core.workers.entry(fisk_id) as entry:
            try:
                _adopt(core, entry, rows.get(fisk_id, []))
            except FiskError as exc:
                LOG.warning("Fisk %s cannot be supervised yet: %s", fisk_id, exc)
                core.watch.later(_FIRST_PAUSE, partial(restart, core, fisk_id))


def _adopt(core: Core, entry: Entry, rows: Sequence[AttachmentRow]) -> None:
    interrupted = [row for row in rows if is_pending(row)]
    lasting = [row for row in rows if not is_pending(row)]
    # One just started may not listen yet.  What lasts does not wait for it here: restart does, on its own.
    worker = core.workers.find(entry) if interrupted or not rows else core.workers.find(entry, patience=0.0)
    for row in interrupted:
        attaching.undo(core, entry, row.id)
    if not lasting:
        if not interrupted:
            attaching.end_worker(core, entry)
        return
    record = find_record(core.engine, entry.fisk_id)
    if record is not None and _is_lost(core, record, lasting):
        LOG.warning("Fisk %s was taken over by another host", entry.fisk_id)
        if worker is not None:
            _await_fall(core, entry.fisk_id, worker)
        _give_up(core, entry, lasting)
    elif (worker is None and any(core.needs_worker(row) for row in lasting)) or (
        worker is not None and worker.waits and not any(map(is_waiting, lasting))
    ):
        core.watch.soon(lambda: restart(core, entry.fisk_id))
    else:
        if worker is not None and worker.waits:
            incoming.listen(core, entry.fisk_id)
        attaching.resume(core, [row for row in lasting if row.access != BUILD])


def drain(core: Core) -> None:
    """End all workers in order; the attachments stay, and are served again by the next supervisor."""
    core.draining = True
    for fisk_id in core.workers.running():
        with core.workers.entry(fisk_id) as entry, core.operation(fisk_id):
            core.workers.stop(entry)

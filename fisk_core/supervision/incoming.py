# SPDX-License-Identifier: Apache-2.0
"""Attachments that wait for their turn: a guest moves here while another host writes its Fisk.

Attach, on the host the guest moves to:

1. under the operation lock, one transaction: the row, pending and incoming.  No lease, no lock;
2. ``<id>.incoming`` has the row's token; the writer makes everything durable and answers with
   ``<id>.outgoing``;
3. a worker that waits (``dataplane.turn``), the route, the access path, as for any attachment.

Promotion, when a client changes something, when we are told to, or when nobody else has the Fisk any more:

1. under the operation lock the fence is raised; the writer answers what is under way, flushes, and lets go of
   the Fisk's lock, for which we wait;
2. one transaction: the lease, the row that waits no more, the rows of other hosts go;
3. the worker gets the lock, opens the Fisk for writing, and goes on with the requests that wait.

A crash before 2 leaves an attachment that waits, and, once the fence is up, nobody who writes: a client's
next change, or whoever calls again, promotes it.  After 2 the row says that this host writes; whoever
supervises next finds a worker that does not know of it, and promotes it.  The two files mean nothing without
the row.
"""

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from fisk_core import files
from fisk_core.catalog import Record, attachments
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.dataplane import lines, outgoing, turn
from fisk_core.dataplane.spec import DiskSpec, TurnOptions
from fisk_core.engine.operating import operating
from fisk_core.errors import FiskError, InUse, NotFound, Unsupported
from fisk_core.model import Attachment
from fisk_core.services import events
from fisk_core.supervision import fencing, shapes
from fisk_core.supervision.core import Core, is_pending, is_waiting, required
from fisk_core.supervision.workers import Entry

LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.02
_AGAIN_SECONDS = 1.0
_ATTEMPTS = 5


def start(core: Core, entry: Entry, row: AttachmentRow) -> None:
    """Have a worker wait for the row's turn; raises InUse when the writer does not answer."""
    for attempt in range(_ATTEMPTS):
        spec = _announce(core, row)
        try:
            with core.operation(row.fisk_id):
                core.workers.wait_for_turn(entry, spec, _turn(core, row), str(row.details["export"]))
            return
        except NotFound:  # a map of the chain below was just consolidated
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_LOOK_SECONDS * attempt)


def check(core: Core, record: Record, rows: Sequence[AttachmentRow], access: str) -> None:
    """Raise what forbids to wait for those that have the Fisk, on other hosts and on this one."""
    elsewhere = [row for row in rows if row.host != core.host]
    if reader := next((row for row in rows if row.host == core.host or row.read_only), None):
        raise InUse(f"Fisk '{record.name}' is read on {reader.host}; nobody there can let go of it")
    if not core.driver(access).moves_in_use:
        raise Unsupported(f"what is attached as '{access}' cannot wait for its turn")
    if len(elsewhere) > 1:
        raise InUse(f"Fisk '{record.name}' is attached {len(elsewhere)} times; only one can move here")
    if not core.driver(elsewhere[0].access).needs_worker:
        raise Unsupported(f"Fisk '{record.name}' is attached as '{elsewhere[0].access}', and stays so")


def _turn(core: Core, row: AttachmentRow) -> TurnOptions:
    return TurnOptions(str(core.home.outgoing(row.fisk_id)), str(row.details["incoming"]))


def _announce(core: Core, row: AttachmentRow) -> DiskSpec:
    """Say that we wait, and give what the writer answers; raises InUse when it does not."""
    content = {"id": str(row.details["incoming"]), "host": core.host}
    if outgoing.read(core.home.incoming(row.fisk_id)) != content:
        outgoing.write(core.home.incoming(row.fisk_id), content)
    deadline = time.monotonic() + core.settings.workers.fence_seconds
    while True:
        try:
            return turn.published(_turn(core, row))
        except NotFound:
            if time.monotonic() > deadline:
                raise InUse(f"who writes Fisk {row.fisk_id} does not answer that we wait for it") from None
        time.sleep(_LOOK_SECONDS)


def withdraw(core: Core, fisk_id: str, host: str | None = None) -> None:
    """Have a host, this one unless said, wait no more, if it is the one that does; may be done twice."""
    said = outgoing.read(core.home.incoming(fisk_id))
    if said is not None and said.get("host") == (host or core.host):
        files.remove(core.home.incoming(fisk_id))
        files.remove(core.home.outgoing(fisk_id))


def end_forgotten(core: Core, entry: Entry) -> None:
    """End a worker that waits for an attachment which another host has ended."""
    worker = entry.worker
    if worker is not None and worker.waits and not any(map(is_waiting, core.rows(entry.fisk_id))):
        withdraw(core, entry.fisk_id)
        core.workers.stop(entry)


# The turn


def listen(core: Core, fisk_id: str) -> None:
    """Promote the worker that waits as soon as one of its clients changes something."""
    try:
        sock = lines.ask(core.home.control(fisk_id), {"op": "turn"})
    except FiskError as exc:  # it ended; the next one is listened to again
        LOG.info("the worker that waits for Fisk %s cannot be asked: %s", fisk_id, exc)
        return
    core.watch.process(sock.detach(), lambda: _called(core, fisk_id))


def _called(core: Core, fisk_id: str) -> None:
    """The worker says that its turn has come, or it has ended."""
    with core.workers.entry(fisk_id) as entry:
        row = next((each for each in core.rows(fisk_id) if is_waiting(each) and not is_pending(each)), None)
        if row is None or not _is_wanted(core, fisk_id):
            return
        try:
            _promote(core, entry, row)
        except FiskError as exc:
            LOG.warning("Fisk %s cannot be taken over yet: %s", fisk_id, exc)
            core.watch.later(_AGAIN_SECONDS, lambda: listen(core, fisk_id))


def _is_wanted(core: Core, fisk_id: str) -> bool:
    """Ask the worker itself: that its connection ended may as well mean that it did."""
    try:
        return bool(core.workers.status(fisk_id)["wanted"])
    except FiskError:
        return False


def promote(core: Core, attachment_id: str) -> Attachment:
    """Have an attachment of this host that waits write now; raises InUse when the writer keeps the Fisk."""
    row = required(core.row(attachment_id), attachment_id)
    with core.workers.entry(row.fisk_id) as entry:
        row = required(core.row(attachment_id), attachment_id)
        if row.host != core.host:
            raise InUse(f"attachment {row.id} is on {row.host}; only that host can take the Fisk over for it")
        if is_waiting(row) and not is_pending(row):
            _promote(core, entry, row)
        return shapes.attachment(required(core.row(attachment_id), attachment_id))


def promote_unopposed(core: Core, fisk_id: str) -> None:
    """Promote what waits for a Fisk that no other host has any more."""
    with core.workers.entry(fisk_id) as entry:
        rows = core.rows(fisk_id, everywhere=True)
        mine = [row for row in rows if row.host == core.host and is_waiting(row) and not is_pending(row)]
        if mine and not any(row.host != core.host and not is_waiting(row) for row in rows):
            try:
                _promote(core, entry, mine[0])
            except FiskError as exc:  # looked at again soon
                LOG.info("Fisk %s cannot be taken over yet: %s", fisk_id, exc)


def _promote(core: Core, entry: Entry, row: AttachmentRow) -> None:
    began = time.monotonic()
    if core.workers.alive(entry) is None:  # before the operation lock, which another one's start takes
        raise NotFound(f"the worker that waits for Fisk {row.fisk_id} is being started again")
    with operating(core.engine, row.fisk_id) as (record,):
        patience = fencing.take_over(core, record)

        def note(conn: Connection, epoch: int) -> None:
            details = {key: value for key, value in row.details.items() if key != "incoming"}
            attachments.change(conn, row.id, details=details, epoch=epoch)
            forget_elsewhere(core, conn, record.id, moved=True)

        core.workers.promote(entry, record, also=note, timeout=patience)
    withdraw(core, row.fisk_id)
    if details := row.details.get("access"):
        try:
            core.driver(row.access).took_over(dict(details))
        except FiskError as exc:  # who reads past the cache, as guests do, sees no difference
            LOG.warning("of Fisk %s, what is cached may be out of date: %s", record.name, exc)
    LOG.info("Fisk '%s' was taken over in %.0f ms", record.name, 1000 * (time.monotonic() - began))


def forget_elsewhere(core: Core, conn: Connection, fisk_id: str, **why: bool) -> None:
    """Remove the attachments of other hosts, whose writer was fenced, and tell of it."""
    for row in attachments.every(conn, fisk_id=fisk_id):
        if row.host != core.host:
            attachments.remove(conn, row.id)
            told = {"id": row.id, "host": row.host, "consumer": row.consumer}
            events.emit(conn, "fisk.detached", fisk_id, **told, **why)

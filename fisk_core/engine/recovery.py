# SPDX-License-Identifier: Apache-2.0
"""Finishes what an operation on a served Fisk left half done when its process died.

Called by the next operation on that Fisk, under its operation lock; every step may be repeated.  The two
situations, and why nothing flushed is lost in either, are in the notes on crash windows of ``freezing`` and
``replacing``.  Before that, what a killed worker had acknowledged but not flushed is brought into the logs
(``blockmap.journal``): of the map below an interrupted snapshot first, of the map being written last.
"""

import logging

from fisk_core import files, locks
from fisk_core.blockmap import journal, replay, seal
from fisk_core.catalog import Record, leases, maps
from fisk_core.engine import replacing
from fisk_core.engine.access import seize, tell_to_switch
from fisk_core.engine.context import Context
from fisk_core.errors import InUse

LOG = logging.getLogger(__name__)


def finish(context: Context, record: Record) -> Record:
    """Give the row with nothing pending; the caller holds the operation lock."""
    _replay_journals(context, record)
    if record.next_map is not None:
        LOG.warning("Fisk %s: finding out how an interrupted operation ended", record.name)
        replacing.decide(context, record)
        record = context.find(record.id)
    if record.base_sealed is False:
        LOG.warning("Fisk %s: finishing an interrupted snapshot", record.name)
        _let_go_of_base(context, record)
        record = context.find(record.id)
    return record


def _replay_journals(context: Context, record: Record) -> None:
    """Replay what nobody flushed, unless a worker lives that is about to."""
    candidates = (record.base_id if record.base_sealed is False else None, record.map_id, record.next_map)
    found = [each for each in candidates if each and files.exists(context.home.journal(each))]
    if not found:
        return
    try:
        lock = locks.acquire(context.home.lock(record.id))
    except InUse:
        return
    with lock:
        with context.catalog.read() as conn:
            epoch = leases.epoch(conn, record.id)
            rows = [maps.find(conn, each) for each in found]
        for row in rows:
            _replay(context, record, row, epoch)


def _replay(context: Context, record: Record, row: maps.MapRow, epoch: int) -> None:
    """Bring one journal into its log; it has nothing more to say then."""
    path = context.home.journal(row.id)
    sizes = {record.map_id: record.size, record.base_id: record.base_size}
    with journal.Salvage(path, row.id, epoch) as noted:
        if noted.changes:
            size = sizes.get(row.id, row.base_size)
            blocks = replay(context.open_pool(row.pool), row.id, size, noted.changes, noted.forget)
            LOG.info("Fisk %s: %d blocks that a killed worker had not flushed are safe", record.name, blocks)
    if row.id == record.base_id or not files.exists(context.home.mark(record.id)):
        files.remove(path)  # after the log is durable: it may be replayed again until then
    # Else the worker is started again at once, and takes the file over where there is no space for another.
    # Until then it may be replayed again, which changes nothing.


def _let_go_of_base(context: Context, record: Record) -> None:
    """Seal the map below an open period: by its worker if that still runs, else here."""
    assert record.base_id is not None
    lock = seize(context, record, shared=True)
    if lock is None:
        tell_to_switch(context, record)
    else:
        with lock:
            seal(context.open_pool(record.pool), record.base_id)
    with context.catalog.change() as conn:
        maps.mark_sealed(conn, record.base_id, record.base_size)
    context.settler.notify()

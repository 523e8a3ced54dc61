# SPDX-License-Identifier: Apache-2.0
"""Finishes what an operation on a served Fisk left half done when its process died.

Called by the next operation on that Fisk, under its operation lock; every step may be repeated.  The two
situations, and why nothing flushed is lost in either, are in the notes on crash windows of ``freezing`` and
``replacing``.
"""

import logging

from fisk_core.blockmap import seal
from fisk_core.catalog import Record, maps
from fisk_core.engine import replacing
from fisk_core.engine.access import seize, tell_to_switch
from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)


def finish(context: Context, record: Record) -> Record:
    """Give the row with nothing pending; the caller holds the operation lock."""
    if record.next_map is not None:
        LOG.warning("Fisk %s: finding out how an interrupted operation ended", record.name)
        replacing.decide(context, record)
        record = context.find(record.id)
    if record.base_sealed is False:
        LOG.warning("Fisk %s: finishing an interrupted snapshot", record.name)
        _let_go_of_base(context, record)
        record = context.find(record.id)
    return record


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

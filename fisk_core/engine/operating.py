# SPDX-License-Identifier: Apache-2.0
"""Operations on a Fisk, one after the other: what changes its map or its use goes through here."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fisk_core import locks
from fisk_core.catalog import Record, maps
from fisk_core.catalog.fisks import is_id
from fisk_core.engine import recovery
from fisk_core.engine.context import Context
from fisk_core.errors import FiskError

LOG = logging.getLogger(__name__)

OPERATION_SECONDS = 30
"""How long one operation on a Fisk waits for another to end."""


@contextmanager
def operating(context: Context, *refs: str) -> Iterator[list[Record]]:
    """Hold the operation locks of the Fisks; gives their rows, with what was interrupted finished first."""
    ids = {ref: ref.lower() if is_id(ref) else context.find(ref).id for ref in refs}
    with ExitStack() as stack:
        for fisk_id in sorted(set(ids.values())):
            stack.enter_context(locks.acquire(context.home.operation(fisk_id), timeout=OPERATION_SECONDS))
        found = {ref: context.find(fisk_id) for ref, fisk_id in ids.items()}
        yield [recovery.finish(context, found[ref]) for ref in refs]


def finish_abandoned(context: Context) -> None:
    """Finish the interrupted snapshots that nobody is about to finish anyway."""
    with context.catalog.read() as conn:
        writers = {row.writer for row in maps.abandoned(conn)}
    for fisk_id in sorted(writers):
        try:
            with operating(context, fisk_id):
                pass
        except FiskError as exc:
            LOG.warning("an interrupted snapshot of Fisk %s stays unfinished: %s", fisk_id, exc)

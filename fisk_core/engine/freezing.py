# SPDX-License-Identifier: Apache-2.0
"""Makes the present content of Fisks immutable, so that a snapshot or clone can name it.

What is frozen is a *map*.  A frozen Fisk has one already, and so has a live one nobody has written to since
its period began: its base.  Those need no lock and no I/O.  A period that was written to is sealed, and the
Fisk continues in a new one based on it.

Order, for a period that nobody writes (its lock is ours meanwhile):

1. layer, then log are made durable;
2. one transaction: the period sealed, the Fisk in a new period without files, and whatever the caller adds
   (the snapshot, the clones).  A crash before it: nothing happened.

Order, for a Fisk that is being served:

1. files of the new period, durable; a crash leaves files nobody names, which are swept;
2. transaction: the Fisk's map is the new period, based on the old, which is **not** sealed yet;
3. the worker is told to switch; it answers when the old period is durable;
4. transaction: the old period sealed, and what the caller adds.

Between 2 and 4 a crash of this process leaves a base that is not sealed.  The new period sees everything in
the old one, so it does not matter whether the worker had switched: each flushed write is in one of the two
logs and the Fisk's map has both.  The next operation or open, and the background work of any engine,
finishes it: by telling the worker again, or, when there is none any more, by sealing the old period itself.
No snapshot of it exists then: snapshots appear only in step 4, whole groups of them at once, so one that is
seen is complete.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from fisk_core import files
from fisk_core.blockmap import create_log, seal
from fisk_core.catalog import Record, fisks, maps
from fisk_core.engine import access
from fisk_core.engine.context import Context
from fisk_core.engine.operating import operating
from fisk_core.engine.retrying import Moved
from fisk_core.errors import FiskError, InUse

LOG = logging.getLogger(__name__)

PAUSE_SECONDS = 4.0
"""How long all switches of a group may take; a paused worker goes on by itself after 5 s."""
_PARALLEL = 32


@dataclass(slots=True)
class Freeze:
    """One Fisk's content, frozen once ``record_in`` is committed: the map and the size to see of it."""

    record: Record
    map_id: str
    size: int
    steady: bool
    served: bool = False

    def record_in(self, conn: Connection) -> None:
        """Do this Fisk's part of the transaction; raises Moved when another process was faster."""
        record = self.record
        if self.steady:
            now = fisks.find(conn, record.id)
            if (now.readable_map, now.size) != (self.map_id, self.size) or not is_steady(now):
                raise Moved(f"Fisk '{record.name}' changed meanwhile")
            return
        maps.mark_sealed(conn, self.map_id, self.size)
        if not self.served:
            maps.begin_period(conn, record, new_period(record, self.map_id, self.size))


def new_period(record: Record, base: str | None, base_size: int) -> dict[str, Any]:
    """Give the row of a fresh period of the Fisk."""
    return maps.period(str(uuid.uuid4()), record.pool_id, base, base_size, record.id)


def is_steady(record: Record) -> bool:
    """Whether what the Fisk reads is immutable already."""
    return record.frozen or (not record.opened and record.base_sealed is True and record.next_map is None)


@contextmanager
def freezing(context: Context, refs: Sequence[str], names: Sequence[str]) -> Iterator[list[Freeze]]:
    """Freeze the Fisks, all at one point in time; to be recorded in one transaction within the block.

    ``names`` are those of what will be made: nothing is frozen when one is taken.
    """
    with context.catalog.read() as conn:
        fisks.require_free(conn, names)
        records = [fisks.find(conn, ref) for ref in refs]
    moving = [record.id for record in records if not is_steady(record)]
    with ExitStack() as stack:
        if moving:
            fresh = {each.id: each for each in stack.enter_context(operating(context, *moving))}
            records = [fresh.get(record.id, record) for record in records]
        yield freeze_held(context, stack, records)


def freeze_held(context: Context, stack: ExitStack, records: Sequence[Record]) -> list[Freeze]:
    """Freeze Fisks whose operation locks are held where they are not steady; ``stack`` gets their locks."""
    freezes = [_hold(context, stack, record) for record in records]
    served = [each for each in freezes if each.served]
    for each in freezes:
        if not each.steady and not each.served:
            seal(context.open_pool(each.record.pool), each.map_id)
    if served:
        _switch(context, served)
    return freezes


def _hold(context: Context, stack: ExitStack, record: Record) -> Freeze:
    if is_steady(record):
        assert record.readable_map is not None
        return Freeze(record, record.readable_map, record.size, steady=True)
    lock = access.seize(context, record, shared=True)
    if lock is not None:
        stack.enter_context(lock)
    if not record.opened:
        # Nothing was ever written and there is no base either.  With files, though empty ones, this is a
        # period like any other; every map that somebody points to then has a log or a blob.
        access.materialise(context, record)
        record = context.find(record.id)
    return Freeze(record, record.map_id, record.size, steady=False, served=lock is None)


def _switch(context: Context, served: Sequence[Freeze]) -> None:
    """Have the workers continue in new periods; returns when the old ones are durable."""
    with context.making():
        rows = [new_period(each.record, each.map_id, each.size) for each in served]
        for each, row in zip(served, rows, strict=True):
            header = access.header_of(each.record, row["id"], each.map_id, each.size)
            create_log(context.open_pool(each.record.pool), header)
        with context.catalog.change() as conn:
            for each, row in zip(served, rows, strict=True):
                maps.begin_period(conn, each.record, row)
                maps.mark_opened(conn, row["id"], row["pool_id"])
    old = [each.record for each in served]
    new = [context.find(record.id) for record in old]
    if len(new) == 1:
        access.tell_to_switch(context, new[0])
    else:
        _switch_together(context, old, new)


def _switch_together(context: Context, old: Sequence[Record], new: Sequence[Record]) -> None:
    """Switch between two moments at which all workers stand still.

    Nobody can make those stand still who write to a file that was handed out.  But its copy is of one moment,
    and that lies between the two: what it has of any order in which things were written, the others have too,
    and the other way round.  (With several such files each has a moment of its own there.)
    """
    direct = [record for record in new if files.exists(context.home.direct(record.id))]
    workers = [record for record in new if record not in direct]

    def tell(step: str) -> Callable[[Record], None]:
        return lambda record: access.tell_to_switch(context, record, step)

    with ThreadPoolExecutor(min(_PARALLEL, len(new))) as threads:
        # Most of what is dirty goes to the medium before anybody is paused.
        _all(threads, tell("switch"), old)
        _all(threads, tell("prepare"), direct)
        began = time.monotonic()
        try:
            _all(threads, lambda record: access.call(context, record, {"op": "pause"}), workers)
            _all(threads, tell("part"), direct)
            _all(threads, tell("switch"), workers)
            if time.monotonic() - began > PAUSE_SECONDS:
                raise InUse("the workers took too long to stand still together; nothing was snapshotted")
        finally:
            for record in workers:
                _resume(context, record)
        _all(threads, tell("switch"), direct)  # what takes long, and need not be done at that moment


def _all(threads: ThreadPoolExecutor, work: Callable[[Record], object], records: Sequence[Record]) -> None:
    """Do it for every one at once; raises the first failure when all have ended."""
    for outcome in [threads.submit(work, record) for record in records]:
        outcome.result()


def _resume(context: Context, record: Record) -> None:
    try:
        access.call(context, record, {"op": "resume"})
    except FiskError as exc:
        LOG.warning("the worker of Fisk %s goes on by itself soon: %s", record.name, exc)

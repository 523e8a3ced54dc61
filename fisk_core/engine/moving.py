# SPDX-License-Identifier: Apache-2.0
"""Moves a Fisk to another pool, also while a worker serves it.

A map and everything it names is in one pool, so what the Fisk's map names is copied into one new layer of the
other pool.  Snapshots and clones stay where they are; what they share with the Fisk now, they do not share
afterwards.

1. The content is frozen as for a snapshot, and copied while the Fisk is used.  A hidden row, the *pin*, keeps
   the frozen map meanwhile; another, the *copy*, is a Fisk under construction in the other pool.
2. What was written meanwhile is frozen and copied, again and again, until it is little.
3. In the end nobody writes: the Fisk's lock is taken, shared, or its worker paused and everything durable.
   The last changes are copied and made durable.
4. The Fisk continues in the other pool.  Not written: in one transaction.  Served: in a new period there, as
   described in ``replacing``: transaction A (``next_map``), the worker is told to switch, transaction B.
5. The pin goes, and with it what nobody else needs in the old pool.  While the Fisk's lock is held by
   readers, some of them may have opened it before 4: then the pin stays, and is removed by whoever looks
   next and finds the lock free.

A crash of this process:

- in 1 to 3: the Fisk is where it was.  Pin and copy are rows under construction whose lock is free: the next
  move of the Fisk, or a check, removes them.  A paused worker goes on by itself.
- between A and B: ``replacing.decide``.  The copy held everything when the worker was told to switch, and the
  worker switches only while the pause lasts.  So nothing was written that the map which counts does not have.
- before 5: the pin is removed in the same way as above; the old data stays until then.

The worker may die at any of these points too: its flushed writes are in the period it wrote, and that is the
one that counts.
"""

import logging
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.blockmap import create_log, seal
from fisk_core.catalog import Record, fisks, maps
from fisk_core.catalog.maps import Garbage
from fisk_core.catalog.pools import PoolRow
from fisk_core.engine import access, building, replacing, validate
from fisk_core.engine.context import Context
from fisk_core.engine.freezing import freezing
from fisk_core.engine.operating import operating
from fisk_core.engine.retrying import retrying
from fisk_core.errors import AlreadyExists, FiskError, InUse
from fisk_core.model import Fisk, State
from fisk_core.services import events, sweep
from fisk_core.services.moving import Copier

if TYPE_CHECKING:
    from fisk_core.engine.engine import Progress

LOG = logging.getLogger(__name__)

SMALL = 16 << 20
"""Bytes of changes that are copied while a worker is paused."""
MAX_ROUNDS = 12
"""How often changes are copied before the Fisk counts as written faster than it can be moved."""
PAUSE_SECONDS = 2.5
"""How long the last changes may take; the worker goes on by itself after 5 s."""


class _TooSlow(InUse):
    """The last changes were too many for one pause."""


def move(context: Context, ref: str, pool: str, *, progress: "Progress | None" = None) -> Fisk:
    """Have a Fisk live in another pool; in its own already, nothing happens.

    ``progress`` gets (bytes copied, bytes to copy so far).  Raises NotFound, InUse (one that another process
    moves, or writes without a worker; one written faster than it can be copied), NoSpace, LimitExceeded, and
    whatever ``progress`` raises; then the Fisk is where it was.
    """
    record, where = context.find(ref), context.pool_row(pool)
    if record.pool_id != where.id:
        validate.fits(record.size, context.open_pool(where.name))
        sweep.sweep_pins(context)  # what the last move left may be the space that this one needs
        with _Move(context, record, where, progress) as moving:
            moving.run()
        context.settler.notify()
    with context.catalog.read() as conn:
        return fisks.load(conn, record.id)


class _Pin:
    """A hidden row that points to a map, so that it stays; it ends with this process."""

    def __init__(self, context: Context, record: Record) -> None:
        self._context = context
        self.kept = False
        """what it points to may still be read when this process is done"""
        self.row = fisks.new_row(
            id=str(uuid.uuid4()),
            name=f"{sweep.PIN}{record.id}+{uuid.uuid4()}",
            parent_id=record.id,
            size=record.size,
            state=State.BUILDING.value,
            role=record.role,
            pool_id=record.pool_id,
            map_id="",
            block_size=record.block_size,
            page_size=record.page_size,
        )
        self._lock = locks.acquire(context.home.lock(self.row["id"]))

    def hold(self, conn: Connection, map_id: str) -> Garbage:
        """Point to a map, from the commit on, and to no other; gives what is to be removed then."""
        before, self.row["map_id"] = self.row["map_id"], map_id
        if not before:
            fisks.insert_fisks(conn, [self.row])
            return Garbage()
        fisks.update_fisk(conn, self.row["id"], map_id=map_id)
        return maps.drop_unneeded(conn, [before])

    def release(self) -> None:
        if self.kept and self._may_be_read():
            self._lock.release()
            return
        sweep.remove_building(self._context, self.row["id"], self._lock)

    def _may_be_read(self) -> bool:
        try:
            return locks.is_held(self._context.home.lock(self.row["parent_id"]))
        except FiskError as exc:  # who looks later, and can tell, removes it
            LOG.info("the old map of Fisk %s stays for now: %s", self.row["parent_id"], exc)
            return True


class _Move:
    """One move under way; at its end nothing is left but the Fisk, here or there."""

    def __init__(self, context: Context, record: Record, where: PoolRow, progress: "Progress | None") -> None:
        self._context, self._id, self._where, self._progress = context, record.id, where, progress
        self._stack = ExitStack()
        try:
            self._begin(record)
        except AlreadyExists as exc:
            self._stack.close()
            raise InUse(f"Fisk '{record.name}' is being moved already") from exc
        except BaseException:
            self._stack.close()
            raise

    def _begin(self, record: Record) -> None:
        context = self._context
        self._pin = _Pin(context, record)
        self._stack.callback(self._pin.release)
        self._map_id, self._size = "", 0
        self._freeze()
        self._copy = building.begin(
            context,
            f"{sweep.PIN}{record.id}",
            size=-(-record.size // record.block_size) * record.block_size,
            pool=self._where.name,
            role=record.role,
            block_size=record.block_size,
            page_size=record.page_size,
        )
        self._stack.callback(self._copy.abort)
        self._copier = self._stack.enter_context(closing(Copier(self._copy.disk, self._progress)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self) -> None:
        """Copy until little is left, and then the rest while nobody writes."""
        source = self._context.open_pool(self._context.find(self._id).pool)
        for _ in range(MAX_ROUNDS):
            copied = self._copier.bring(source, self._map_id, self._size)
            if copied > SMALL and self._freeze():
                continue
            try:
                self._complete()
                return
            except _TooSlow as exc:
                LOG.info("%s; copying once more", exc)
                self._freeze()
        raise InUse(f"Fisk {self._id} is written faster than it can be moved; nothing was changed")

    def _freeze(self) -> bool:
        """Freeze and pin what the Fisk holds now; says whether that is something else than before."""
        before = self._map_id, self._size

        def attempt() -> None:
            with freezing(self._context, [self._id], []) as (freeze,):
                with self._context.catalog.change() as conn:
                    freeze.record_in(conn)
                    garbage = self._pin.hold(conn, freeze.map_id)
                self._map_id, self._size = freeze.map_id, freeze.size
            sweep.remove(self._context, garbage)

        retrying(self._context, attempt)
        return (self._map_id, self._size) != before

    def _complete(self) -> None:
        with operating(self._context, self._id) as (record,):
            if record.frozen:
                self._repoint(record)
                return
            lock = access.seize(self._context, record, shared=True)
            if lock is None:
                self._switch(record)
                return
            with lock:
                self._repoint(record)

    # Nobody writes it

    def _repoint(self, record: Record) -> None:
        context = self._context
        pool = context.open_pool(record.pool)
        written = record.opened and not record.frozen
        if written:
            seal(pool, record.map_id)
        assert record.readable_map is not None
        self._copier.bring(pool, record.readable_map, record.size)
        copied = self._copy.seal()
        with context.catalog.change() as conn:
            self._copy.give(conn, record.size)
            map_id = copied
            if not record.frozen:
                period = maps.period(str(uuid.uuid4()), self._where.id, copied, record.size, self._id)
                maps.insert_maps(conn, [period])
                map_id = period["id"]
            fisks.update_fisk(conn, self._id, map_id=map_id, pool_id=self._where.id, published=0)
            if written:
                maps.mark_sealed(conn, record.map_id, record.size)
            garbage = self._pin.hold(conn, record.readable_map)
            if not record.frozen and not record.opened:
                garbage = maps.drop_unneeded(conn, [record.map_id])
            events.emit(conn, "fisk.moved", self._id, pool=self._where.name)
        self._copy.given()
        self._pin.kept = True
        garbage.fisks.append((record.pool, self._id))
        sweep.remove(context, garbage)

    # A worker serves it

    def _switch(self, record: Record) -> None:
        context, began = self._context, time.monotonic()
        access.call(context, record, {"op": "pause"})
        try:
            # Changes that were put off are made, and then everything is made durable, where it is.
            access.call(context, record, {"op": "barrier"})
            access.tell_to_switch(context, record)
            self._copier.bring(context.open_pool(record.pool), record.map_id, record.size)
            if time.monotonic() - began > PAUSE_SECONDS:
                raise _TooSlow(f"the last changes of Fisk '{record.name}' were too many for one pause")
            following = self._prepare(record, self._copy.seal())
            self._tell(record, following)
        finally:
            self._resume(record)

    def _prepare(self, record: Record, copied: str) -> Record:
        """Make the period to continue in, and name it as what comes next (transaction A)."""
        context = self._context
        row = maps.period(str(uuid.uuid4()), self._where.id, copied, record.size, self._id)
        following = record._replace(
            map_id=row["id"],
            pool=self._where.name,
            pool_id=self._where.id,
            base_id=copied,
            base_size=record.size,
        )
        with context.making():
            header = access.header_of(following, row["id"], copied, record.size)
            create_log(context.open_pool(self._where.name), header)
            with context.catalog.change() as conn:
                self._copy.give(conn, record.size)
                maps.insert_maps(conn, [row])
                maps.mark_opened(conn, row["id"], row["pool_id"])
                fisks.update_fisk(conn, self._id, next_map=row["id"])
        self._copy.given()
        return following

    def _tell(self, record: Record, following: Record) -> None:
        """Have the worker continue there, if it still stands still; then it counts (transaction B)."""
        context = self._context
        with context.catalog.read() as conn:
            labels = fisks.attributes_of(conn, self._id)
        spec = access.spec_of(context, following, read_only=False, labels=labels)
        try:
            access.call(context, record, {"op": "switch", "spec": asdict(spec), "paused": True})
        except FiskError:
            replacing.decide(context, context.find(self._id))
            raise
        replacing.forward(
            context, context.find(self._id), following.map_id, following.base_id, following.base_size
        )

    def _resume(self, record: Record) -> None:
        try:
            access.call(self._context, record, {"op": "resume"})
        except FiskError as exc:
            LOG.warning("the worker of Fisk %s goes on by itself soon: %s", record.name, exc)

# SPDX-License-Identifier: Apache-2.0
"""Fisks under construction: what an import writes into before anybody can see it.

A Building is a row in state ``building``: hidden, but its name is taken.  Its process holds the Fisk's
lock; when the process dies the lock is free, and whoever finds it so removes row and files.  ``finish``
makes everything durable and then shows the Fisk, in one transaction.
"""

import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.blockmap import Geometry, LogHeader, create_log, seal
from fisk_core.catalog import fisks, maps
from fisk_core.engine import opening, placement, validate
from fisk_core.engine.context import Context
from fisk_core.engine.opening import LockedDisk
from fisk_core.engine.retrying import retrying
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Fisk, Role, State
from fisk_core.services import events, sweep


class Building:
    """A hidden Fisk with an open, writable ``disk``; as a context manager it is aborted unless finished.

    Give a generous ``size`` where it is not known yet (holes cost nothing): ``finish`` sets the true one.
    Nothing may have been written behind that.
    """

    def __init__(self, context: Context, fisk_id: str, name: str, lock: locks.Lock, disk: LockedDisk) -> None:
        self._context = context
        self.fisk_id = fisk_id
        self.name = name
        self.disk = disk
        self._lock = lock
        self._open = True

    def finish(self, *, size: int, frozen: bool, attributes: Mapping[str, str] | None = None) -> Fisk:
        """Make it durable and show it; ``attributes`` are added to those it began with.

        Raises what a failing flush raises; then nothing is shown, and ``abort`` is still due.
        """
        validate.size(size)
        validate.set_attributes(attributes)
        self.disk.close()
        made = show(self._context, self.fisk_id, size=size, frozen=frozen, attributes=attributes)
        self._open = False
        self._lock.release()
        return made

    def seal(self) -> str:
        """Make it durable for good and give its map, for another Fisk to take over with ``give``."""
        self.disk.close()
        record = self._record()
        seal(self._context.open_pool(record.pool), record.map_id)
        return record.map_id

    def give(self, conn: Connection, size: int) -> None:
        """In the transaction that points another Fisk to the map: so many bytes of it count, the row goes."""
        record = fisks.find(conn, self.fisk_id, building=True)
        maps.mark_sealed(conn, record.map_id, size)
        fisks.delete_fisks(conn, [self.fisk_id])

    def given(self) -> None:
        """That transaction is committed."""
        self._open = False
        self._lock.remove()

    def abort(self) -> None:
        """Leave no trace; harmless after ``finish`` and when done twice."""
        if not self._open:
            return
        self._open = False
        try:
            self.disk.close()
        finally:
            sweep.remove_building(self._context, self.fisk_id, self._lock)

    def _record(self) -> fisks.Record:
        with self._context.catalog.read() as conn:
            return fisks.find(conn, self.fisk_id, building=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def begin(
    context: Context,
    name: str,
    *,
    size: int,
    pool: str | None = None,
    role: str = Role.IMAGE,
    attributes: Mapping[str, str] | None = None,
    block_size: int = BLOCK_SIZE,
    page_size: int = PAGE_SIZE,
    parent_id: str | None = None,
    id: str | None = None,
) -> Building:
    """Reserve the name and open a hidden Fisk for writing.  Raises AlreadyExists, InvalidValue, NoSpace."""
    fisk_id, lock = reserve(
        context,
        name,
        size=size,
        pool=pool,
        role=role,
        attributes=attributes,
        block_size=block_size,
        page_size=page_size,
        parent_id=parent_id,
        id=id,
    )
    try:
        disk = opening.open_locked(context, fisk_id, read_only=False)
    except BaseException:
        sweep.remove_building(context, fisk_id, lock)
        raise
    return Building(context, fisk_id, name, lock, disk)


def show(
    context: Context,
    fisk_id: str,
    *,
    size: int,
    frozen: bool,
    attributes: Mapping[str, str] | None = None,
    also: Callable[[Connection], None] | None = None,
) -> Fisk:
    """Show a hidden Fisk that nobody writes any more; the caller holds its lock.

    ``also`` is done in the transaction that shows it.
    """
    labels = validate.set_attributes(attributes)
    with context.catalog.read() as conn:
        record = fisks.find(conn, fisk_id, building=True)
    if frozen:
        seal(context.open_pool(record.pool), record.map_id)
    with context.catalog.change() as conn:
        state = State.FROZEN if frozen else State.LIVE
        fisks.update_fisk(conn, fisk_id, state=state.value, size=size)
        fisks.set_attributes(conn, fisk_id, labels)
        if frozen:
            maps.mark_sealed(conn, record.map_id, size)
        if also is not None:
            also(conn)
        made = fisks.load(conn, fisk_id)
        shown = {"name": made.name, "role": made.role, "state": state.value, "parent_id": made.parent_id}
        events.emit(conn, "fisk.created", made.id, **shown)
    context.settler.notify()
    return made


def reserve(
    context: Context,
    name: str,
    *,
    size: int,
    pool: str | None = None,
    role: str = Role.IMAGE,
    attributes: Mapping[str, str] | None = None,
    block_size: int = BLOCK_SIZE,
    page_size: int = PAGE_SIZE,
    parent_id: str | None = None,
    id: str | None = None,
    also: Callable[[Connection, str], None] | None = None,
) -> tuple[str, locks.Lock]:
    """Make a hidden Fisk with an open period; gives its id and its lock.

    ``also`` is done in the transaction that makes it, and gets its id.
    """
    validate.name(name)
    validate.size(size)
    validate.role(role)
    validate.geometry(block_size, page_size)
    labels = validate.set_attributes(attributes)
    where = context.pool_row(placement.choose(context, pool, labels))
    row = fisks.new_row(
        id=validate.fisk_id(id),
        name=name,
        size=size,
        state=State.BUILDING.value,
        role=role,
        pool_id=where.id,
        map_id=str(uuid.uuid4()),
        parent_id=parent_id,
        block_size=block_size,
        page_size=page_size,
    )
    lock = locks.acquire(context.home.lock(row["id"]))
    try:
        header = LogHeader(row["map_id"], None, row["id"], 0, Geometry(block_size, page_size))
        retrying(context, lambda: _reserve(context, row, labels, where.name, header, also))
    except BaseException:
        sweep.remove_building(context, row["id"], lock)
        raise
    return row["id"], lock


def _reserve(
    context: Context,
    row: dict[str, object],
    labels: dict[str, str],
    pool: str,
    header: LogHeader,
    also: Callable[[Connection, str], None] | None,
) -> None:
    with context.catalog.read() as conn:
        fisks.require_free(conn, [str(row["name"])])
    with context.making():
        create_log(context.open_pool(pool), header)
        with context.catalog.change() as conn:
            fisks.require_free(conn, [str(row["name"])])
            pool_id = int(str(row["pool_id"]))
            maps.insert_maps(conn, [maps.period(header.map_id, pool_id, None, 0, header.fisk_id)])
            maps.mark_opened(conn, header.map_id, pool_id)
            fisks.insert_fisks(conn, [row], labels)
            if also is not None:
                also(conn, header.fisk_id)

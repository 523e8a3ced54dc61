# SPDX-License-Identifier: Apache-2.0
"""Opening a Fisk: its lock, what a data path needs to know, and a disk in this process."""

import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection

from fisk_core import locks
from fisk_core.catalog import Record, fisks, leases, maps
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.engine import access
from fisk_core.engine.context import Context
from fisk_core.engine.operating import operating
from fisk_core.errors import InvalidValue, NotFound, ReadOnly
from fisk_core.services import settle

_ATTEMPTS = 5

Noting = Callable[[Connection, int], None]
"""What is done in the transaction of a lease, with its epoch; 0 for a reader, who has none."""


def acquire(context: Context, ref: str, *, writable: bool) -> locks.Lock:
    """Take the lock to use a Fisk, ready to be opened; it lasts until released or its process ends.

    Raises NotFound, ReadOnly for writing a frozen Fisk, InUse.
    """
    record = context.find(ref)
    if record.frozen:
        return _acquire_frozen(context, record, writable)
    with operating(context, record.id) as (record,):
        return acquire_held(context, record, writable=writable)


def acquire_held(
    context: Context,
    record: Record,
    *,
    writable: bool,
    also: Noting | None = None,
    timeout: float = 0.0,
) -> locks.Lock:
    """The same for who holds the operation lock; waits up to ``timeout`` seconds for the writer to let go."""
    if record.frozen:
        lock = _acquire_frozen(context, record, writable)
    else:
        lock = access.take(context, record, shared=not writable, timeout=timeout)
    try:
        if writable:
            _prepare_writing(context, record, also)
        elif also is not None:
            with context.catalog.change() as conn:
                also(conn, 0)
    except BaseException:
        lock.release()
        raise
    return lock


def _acquire_frozen(context: Context, record: Record, writable: bool) -> locks.Lock:
    if writable:
        raise ReadOnly(f"Fisk '{record.name}' is frozen; clone it to write")
    lock = access.take(context, record, shared=True)
    try:
        context.find(record.id)  # not deleted while we came here
    except BaseException:
        lock.release()
        raise
    return lock


def _prepare_writing(context: Context, record: Record, also: Noting | None) -> None:
    def take_lease(conn: Connection) -> None:
        epoch = leases.take(conn, record.id, context.holder)
        if also is not None:
            also(conn, epoch)

    if record.opened:
        with context.catalog.change() as conn:
            take_lease(conn)
            # If the writer before died, its layer may hold blocks that never got into the log.
            maps.mark_suspect(conn, record.map_id)
    else:
        access.materialise(context, record, also=take_lease)
    if not record.published:
        # From the first write on, a lost catalog can be rebuilt with this Fisk's name.
        settle.publish(context, [context.find(record.id)])


def disk_spec(context: Context, ref: str, *, read_only: bool) -> DiskSpec:
    """Describe the Fisk for a data path; for writing, ``acquire`` comes first."""
    with context.catalog.read() as conn:
        record = fisks.find(conn, ref, building=True)
        labels = fisks.attributes_of(conn, record.id)
        epoch = leases.epoch(conn, record.id)
    if not read_only and not record.opened:
        raise InvalidValue(f"Fisk '{record.name}' was not acquired for writing")
    return access.spec_of(context, record, read_only=read_only, labels=labels, epoch=epoch)


class LockedDisk(Disk):
    """A disk that holds its Fisk's lock and lets go of it when closed."""

    lock: locks.Lock | None = None

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self.lock is not None:
                self.lock.release()


def open_disk(context: Context, ref: str, *, writable: bool) -> LockedDisk:
    """Open a Fisk in this process, locked until it is closed; raises like ``acquire``."""
    fisk_id = context.find(ref).id
    lock = acquire(context, fisk_id, writable=writable)
    try:
        disk = open_locked(context, fisk_id, read_only=not writable)
    except BaseException:
        lock.release()
        raise
    disk.lock = lock
    return disk


def open_locked(context: Context, fisk_id: str, *, read_only: bool) -> LockedDisk:
    """Open a Fisk whose lock the caller holds."""
    for attempt in range(_ATTEMPTS):
        # No journal: should this process be killed, whoever wrote through it is gone too.
        spec = replace(disk_spec(context, fisk_id, read_only=read_only), journal=None)
        try:
            disk = LockedDisk.open(context.open_pool(spec.pool["name"]), spec)
            assert isinstance(disk, LockedDisk)
            return disk
        except NotFound:
            # A map of the chain below was just consolidated, and what it no longer needs removed.
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.01 * attempt)
    raise AssertionError("not reached")

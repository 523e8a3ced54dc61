# SPDX-License-Identifier: Apache-2.0
"""The locks of a Fisk, talking to its worker, and the files of a period at the first open for writing.

Two locks, always taken in this order:

- ``run/<id>.op`` is held for the moment in which a Fisk's map or its use changes.  Who waits for it waits for
  milliseconds.  Several are taken in ascending order of their ids.
- ``run/<id>.lock`` is held as long as the Fisk is used: exclusively by its one writer (a worker or this
  process), shared by readers.  Nobody waits for it; held by a writer means served, or InUse.

A period gets its files here and nowhere else, at the first open for writing.  Crash windows:

1. files being created, the row says ``opened = 0``: the next attempt replaces them; nobody had written.
2. files durable, transaction not committed: the same.
3. committed: the period is open.  From here on missing files are corruption, never an empty disk.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from fisk_core import files, locks
from fisk_core.blockmap import Geometry, LogHeader, create_log
from fisk_core.catalog import Record, leases, maps
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.engine.context import Context
from fisk_core.errors import InUse, NotFound, PoolError

LOG = logging.getLogger(__name__)

STOP_SECONDS = 15
"""How long a worker may take to stop."""


def seize(context: Context, record: Record, *, shared: bool) -> locks.Lock | None:
    """Take the Fisk's lock, or give None when a worker that writes it has it and can be talked to.

    Raises InUse when another holds it: a process without a control socket, or readers in the way of ``shared
    = False``.
    """
    try:
        lock = locks.acquire(context.home.lock(record.id), shared=shared)
    except InUse:
        pass
    else:
        return _unless_direct(context, record, lock)
    status = worker_status(context, record)
    if status.get("read_only"):
        raise InUse(f"Fisk '{record.name}' is being read; stop its readers first")
    return None


def worker_status(context: Context, record: Record) -> dict[str, Any]:
    """Ask the worker that serves the Fisk; raises InUse when whoever uses it cannot be asked."""
    try:
        return call(context, record, {"op": "status"})
    except NotFound:
        raise InUse(
            f"Fisk '{record.name}' is used by a process that cannot be asked to cooperate"
            f"{_whose(context, record)}; stop it first"
        ) from None


def call(context: Context, record: Record, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the Fisk's worker; raises NotFound when there is none, and what it answers."""
    from fisk_core.dataplane import control

    return control.call(context.home.control(record.id), request)


def tell_to_switch(context: Context, record: Record, step: str = "switch") -> None:
    """Have the Fisk's worker continue in the map of ``record``; returns when its old one is durable.

    Asking twice is harmless.  Who keeps a direct file can be told to take only one ``step`` of it.
    """
    call(context, record, {"op": step, "spec": asdict(spec_of(context, record, read_only=False))})


def exclude(context: Context, record: Record, *, force: bool) -> locks.Lock:
    """Take the Fisk's lock for its end; ``force`` stops its worker first.  Raises InUse.

    The caller has seen that it is attached nowhere, unless forced: a supervised worker is one that stayed in
    case another reader comes, then.
    """
    if force:
        files.remove(context.home.direct(record.id))
    try:
        lock = locks.acquire(context.home.lock(record.id))
    except InUse:
        if not force and not files.exists(context.home.mark(record.id)):
            whose = _whose(context, record)
            raise InUse(f"Fisk '{record.name}' is in use{whose}; stop what uses it, or force") from None
    else:
        return _unless_direct(context, record, lock)
    try:
        call(context, record, {"op": "stop"})
    except (NotFound, PoolError) as exc:  # one that ends meanwhile goes away without a reply
        LOG.info("Fisk %s is in use but has no worker to stop: %s", record.name, exc)
    try:
        return locks.acquire(context.home.lock(record.id), timeout=STOP_SECONDS)
    except InUse:
        whose = _whose(context, record)
        raise InUse(f"Fisk '{record.name}' is in use by a process that does not stop{whose}") from None


def take(context: Context, record: Record, *, shared: bool, timeout: float = 0.0) -> locks.Lock:
    """Take the Fisk's lock; raises InUse that says by whom it is used as far as that is known."""
    try:
        lock = locks.acquire(context.home.lock(record.id), shared=shared, timeout=timeout)
    except InUse:
        use = "written" if shared else "used"
        whose = _whose(context, record)
        raise InUse(f"Fisk '{record.name}' is being {use} by another process{whose}") from None
    return _unless_direct(context, record, lock)


def _unless_direct(context: Context, record: Record, lock: locks.Lock) -> locks.Lock:
    """Give the lock back where the Fisk's file was handed out: whoever has it writes without any lock."""
    try:
        direct = files.exists(context.home.direct(record.id))
    except BaseException:
        lock.release()
        raise
    if direct:
        lock.release()
        raise InUse(f"Fisk '{record.name}' is attached as 'direct' and its keeper is away; attach it again")
    return lock


def _whose(context: Context, record: Record) -> str:
    """Say who writes the Fisk: the lease names the last writer, and the lock tells whether it still does."""
    try:
        locks.acquire(context.home.lock(record.id), shared=True).release()
    except InUse:
        with context.catalog.read() as conn:
            lease = leases.find(conn, record.id)
        return f" ({lease.holder})" if lease else ""
    return ""  # readers, who have no lease


def materialise(
    context: Context, record: Record, *, also: Callable[[Connection], None] | None = None
) -> None:
    """Give the Fisk's period its files.  The caller holds the operation lock and knows that nobody writes.

    ``also`` is done in the transaction that says so.
    """
    with context.making():
        header = header_of(record, record.map_id, record.base_id, record.base_size)
        create_log(context.open_pool(record.pool), header)
        with context.catalog.change() as conn:
            maps.mark_opened(conn, record.map_id, record.pool_id)
            if also is not None:
                also(conn)


def header_of(record: Record, map_id: str, base: str | None, base_size: int) -> LogHeader:
    """Give the header for the log of a period of the Fisk."""
    geometry = Geometry(record.block_size, record.page_size)
    return LogHeader(map_id, base, record.id, base_size if base else 0, geometry)


def spec_of(
    context: Context,
    record: Record,
    *,
    read_only: bool,
    labels: dict[str, str] | None = None,
    epoch: int = 0,
) -> DiskSpec:
    """Describe a Fisk; ``epoch`` is its writer's (a worker that is told to switch keeps its own)."""
    return DiskSpec(
        fisk_id=record.id,
        name=record.name,
        size=record.size,
        block_size=record.block_size,
        page_size=record.page_size,
        map_id=record.map_id,
        read_only=read_only,
        pool=context.open_pool(record.pool).spec(),
        opened=record.opened,
        base_id=record.base_id,
        base_size=record.base_size,
        attributes=labels or {},
        journal=None if read_only else str(context.home.journal(record.map_id)),
        epoch=epoch,
    )


def forget_files(context: Context, ids: Iterable[str]) -> None:
    """Remove the sockets of Fisks that are gone."""
    for fisk_id in ids:
        home = context.home
        for path in (home.control, home.socket, home.reader, home.fence, home.incoming, home.outgoing):
            files.remove(path(fisk_id))

# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the rows of a lost catalog from what a pool holds.

Headers tell names and roles, logs and map blobs tell which map is based on which and which layers it names.
A header may be older than the logs: then the newest period of its Fisk, found by following the logs that it
wrote, counts.  A map with content that no Fisk leads to (its header was never written) becomes a frozen
Fisk called ``recovered-…``.  Nothing in the pool is changed or removed; everything that can be made of it,
and the pool itself where the catalog has lost it, is inserted in one transaction; what is damaged is named in
the report and left alone.  So it may be ended at any moment: before the transaction nothing has happened.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from fisk_core.blockmap import BlobHeader, LogHeader, read_blob_header, read_log_header, seal
from fisk_core.blockmap.log import read as read_log
from fisk_core.catalog import fisks, leases, maps
from fisk_core.catalog import pools as pool_rows
from fisk_core.catalog.database import raise_version
from fisk_core.errors import AlreadyExists, FiskError, PoolError
from fisk_core.model import Role, State
from fisk_core.pools.base import Kind, Pool
from fisk_core.reports import RescanReport as RescanReport
from fisk_core.services import headers
from fisk_core.services.headers import FiskHeader
from fisk_core.services.meter import Meter, Progress

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What a pool holds."""

    pool: Pool
    headers: dict[str, FiskHeader]
    blobs: dict[str, BlobHeader]
    logs: dict[str, LogHeader]

    def exists(self, map_id: str) -> bool:
        return map_id in self.blobs or map_id in self.logs

    def chain(self, map_id: str | None) -> Iterator[str]:
        """Give a map and those it is based on, newest first, as far as they are there."""
        while map_id is not None and self.exists(map_id):
            yield map_id
            map_id = None if map_id in self.blobs else self.logs[map_id].base_id

    def is_whole(self, map_id: str) -> bool:
        """Whether everything below a map is there too."""
        last = list(self.chain(map_id))[-1]
        return last in self.blobs or self.logs[last].base_id is None


@dataclass(slots=True)
class Plan:
    """Rows to insert: Fisks with their attributes, maps by id (bases before what is based on them)."""

    fisks: list[tuple[dict[str, Any], Mapping[str, str]]] = field(default_factory=list)
    maps: dict[str, dict[str, Any]] = field(default_factory=dict)


def rescan(
    context: "Context",
    name: str,
    *,
    driver: str = "file",
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RescanReport:
    """Take over what the pool ``name`` holds; ``options`` say where it is if the catalog does not know it.

    Raises AlreadyExists when the catalog has Fisks of this pool, and PoolError when something of it cannot be
    read: without its header a Fisk would be recovered under another name.  With ``force`` what the catalog
    does not have is added, and what cannot be read is named with what is damaged.  ``progress`` is told how
    many things of the pool were read; raising from it ends the work.
    """
    pool, is_new = _find(context, name, driver, options or {})
    with context.catalog.read() as conn:
        known = {fisk.id for fisk in fisks.select_fisks(conn, pool=name)}
    if known and not force:
        raise AlreadyExists(
            f"the catalog has {len(known)} Fisks of pool '{name}'; only a forced rescan adds to them"
        )
    report = RescanReport(name)
    found = _read(pool, report, progress, force)
    latest = max((header.version for header in found.headers.values()), default=0)
    with context.making(), context.catalog.change() as conn:
        raise_version(conn, latest)
        if is_new:
            pool_rows.add(conn, pool.id, pool.spec())
        row = pool_rows.find(conn, name)
        plan = _plan(conn, found, row.id, report)
        _seal_all(pool, plan)
        _insert(conn, found, plan, row.id)
    context.settler.notify()
    return report


def _find(context: "Context", name: str, driver: str, options: Mapping[str, Any]) -> tuple[Pool, bool]:
    """Open the pool; says whether the catalog does not know it."""
    if name in context.pool_names():
        return context.open_pool(name), False
    return context.find_pool(name, driver, options), True


# Reading


def _note(report: RescanReport, error: FiskError, force: bool) -> None:
    """Name what is damaged; raises what could not be read, for the next time it may be."""
    if isinstance(error, PoolError) and not force:
        raise error
    report.damaged.append(str(error))


def _read(pool: Pool, report: RescanReport, progress: Progress | None, force: bool) -> Found:
    found = Found(pool, {}, {}, {})
    fisk_names, map_names = [*pool.list_blobs("fisks/")], [*pool.list_blobs("maps/")]
    log_ids = [*pool.list_devices(Kind.LOG)]
    meter = Meter(progress, len(fisk_names) + len(map_names) + len(log_ids))
    for name in fisk_names:
        meter.advance()
        try:
            header = headers.decode(pool.get_blob(name), name)
        except FiskError as exc:
            _note(report, exc, force)
        else:
            found.headers[header.id] = header
    for name in map_names:
        meter.advance()
        map_id = name.partition("/")[2]
        try:
            found.blobs[map_id] = read_blob_header(pool, map_id)
        except FiskError as exc:
            _note(report, exc, force)
    for map_id in log_ids:
        meter.advance()
        try:
            found.logs[map_id] = read_log_header(pool, map_id)
        except FiskError as exc:
            _note(report, exc, force)
    return found


# Planning


def _plan(conn: Connection, found: Found, pool_id: int, report: RescanReport) -> Plan:
    plan = Plan()
    names = {fisk.name for fisk in fisks.select_fisks(conn)}
    for header in sorted(found.headers.values(), key=lambda each: (each.created_at, each.name)):
        if fisks.try_find(conn, header.id) is not None:
            continue
        tip = _tip_of(found, header)
        if tip is None:
            report.damaged.append(f"the map of Fisk '{header.name}' ({header.id}) is missing or incomplete")
            continue
        name = _free_name(header.name, header.id, names)
        _plan_fisk(plan, found, header, name, tip, pool_id)
        report.fisks.append(name)
    for map_id in _orphans(conn, found, plan):
        name = _free_name(f"recovered-{map_id[:8]}", map_id, names)
        _plan_orphan(plan, found, name, map_id, pool_id)
        report.recovered.append(name)
    return plan


def _tip_of(found: Found, header: FiskHeader) -> tuple[str | None, int] | None:
    """Give (map with files or None, size) where a Fisk is now; None when its content is not there."""
    newest = _newest_log(found, header) if header.state == State.LIVE else None
    if newest is not None:
        size = header.size if newest in (header.map_id, header.base_id) else found.logs[newest].base_size
        return newest, size
    if found.exists(header.map_id):
        return (header.map_id, header.size) if found.is_whole(header.map_id) else None
    if header.opened:
        return None
    whole = header.base_id is None or (found.exists(header.base_id) and found.is_whole(header.base_id))
    return (None, header.size) if whole else None


def _newest_log(found: Found, header: FiskHeader) -> str | None:
    """Give the period that a live Fisk writes: its log is no other's base.

    There are several only when something was interrupted; then the one its header leads to counts.
    """
    bases = {log.base_id for log in found.logs.values()}
    tips = [
        log.map_id
        for log in found.logs.values()
        if log.fisk_id == header.id
        and log.map_id not in bases
        and log.map_id not in found.blobs
        and found.is_whole(log.map_id)
    ]
    known = {header.map_id, header.base_id}
    return max(tips, key=lambda tip: (not known.isdisjoint(found.chain(tip)), tip), default=None)


def _free_name(name: str, identity: str, names: set[str]) -> str:
    free = name if name not in names else f"{name[:240]}-{identity[:8]}"
    names.add(free)
    return free


def _plan_fisk(
    plan: Plan, found: Found, header: FiskHeader, name: str, tip: tuple[str | None, int], pool_id: int
) -> None:
    map_id, size = tip
    live = header.state == State.LIVE
    if map_id is None:
        _plan_map(plan, found, header.base_id, header.base_size, pool_id)
        map_id = header.map_id
        plan.maps[map_id] = maps.period(map_id, pool_id, header.base_id, header.base_size, header.id)
    elif live and map_id in found.logs and map_id not in found.blobs:
        log = found.logs[map_id]
        _plan_map(plan, found, log.base_id, log.base_size, pool_id)
        plan.maps[map_id] = {**_row_of(found, map_id, pool_id), "sealed": False, "size": None}
    elif live:
        # Its header is older than the end of its period: it continues above what is frozen now.
        _plan_map(plan, found, map_id, size, pool_id)
        period = maps.period(fisks.new_id(), pool_id, map_id, size, header.id)
        map_id = str(period["id"])
        plan.maps[map_id] = period
    else:
        _plan_map(plan, found, map_id, size, pool_id)
    row = fisks.new_row(
        id=header.id,
        name=name,
        size=size,
        state=header.state,
        role=header.role,
        pool_id=pool_id,
        map_id=map_id,
        parent_id=header.parent_id,
        block_size=header.block_size,
        page_size=header.page_size,
        created_at=datetime.fromisoformat(header.created_at),
        revision=header.revision + 1,
    )
    plan.fisks.append((row, header.attributes))


def _plan_map(plan: Plan, found: Found, map_id: str | None, size: int, pool_id: int) -> None:
    """Plan a sealed map and all below it, bases first; ``size`` bytes of it are seen."""
    seen = size
    chain = []
    for each in found.chain(map_id):
        chain.append((each, seen))
        seen = found.logs[each].base_size if each not in found.blobs else 0
    for each, needed in reversed(chain):
        row = plan.maps.setdefault(each, _row_of(found, each, pool_id))
        if row["sealed"]:
            row["size"] = max(row["size"] or 0, needed)


def _row_of(found: Found, map_id: str, pool_id: int) -> dict[str, Any]:
    blob, log = found.blobs.get(map_id), found.logs.get(map_id)
    base = log.base_id if log and not blob else None
    row = maps.period(map_id, pool_id, base, log.base_size if log else 0, log.fisk_id if log else map_id)
    size = blob.size if blob else None
    return {**row, "size": size, "opened": True, "sealed": True, "has_blob": blob is not None}


def _orphans(conn: Connection, found: Found, plan: Plan) -> list[str]:
    """Give the maps with content that are neither planned nor known, nor below another such."""
    candidates = [
        each
        for each in {*found.blobs, *found.logs}
        if each not in plan.maps and not maps.exists_map(conn, each) and found.is_whole(each)
    ]
    below = {other for each in candidates for other in list(found.chain(each))[1:]}
    return sorted(each for each in candidates if each not in below and _extent(found, each))


def _extent(found: Found, map_id: str) -> int:
    """Give how many bytes a map may have, 0 when it names nothing."""
    blob = found.blobs.get(map_id)
    if blob is not None:
        return blob.size if len(blob.layers) > 1 else 0
    log = found.logs[map_id]
    with found.pool.open_device(Kind.LOG, map_id, writable=False) as device:
        pages = read_log(device, map_id).records
    return max(log.base_size, (max(pages, default=-1) + 1) * log.geometry.page_size)


def _plan_orphan(plan: Plan, found: Found, name: str, map_id: str, pool_id: int) -> None:
    size = _extent(found, map_id)
    blob = found.blobs.get(map_id)
    geometry = blob.geometry if blob else found.logs[map_id].geometry
    _plan_map(plan, found, map_id, size, pool_id)
    row = fisks.new_row(
        id=fisks.new_id(),
        name=name,
        size=size,
        state=State.FROZEN.value,
        role=Role.SNAPSHOT.value,
        pool_id=pool_id,
        map_id=map_id,
        block_size=geometry.block_size,
        page_size=geometry.page_size,
    )
    plan.fisks.append((row, {}))


# Inserting


def _seal_all(pool: Pool, plan: Plan) -> None:
    """Make durable what was being written when the catalog was lost."""
    for row in plan.maps.values():
        if row["sealed"] and not row["has_blob"]:
            seal(pool, row["id"])


def _insert(conn: Connection, found: Found, plan: Plan, pool_id: int) -> None:
    for row in plan.maps.values():
        if maps.exists_map(conn, row["id"]):
            continue
        maps.insert_maps(conn, [row])
        if row["opened"]:
            blob = found.blobs.get(row["id"])
            named = {layer for layer in blob.layers if layer} if blob else {row["id"]}
            maps.add_layers(conn, pool_id, named, frozen=row["sealed"])
            maps.name_layers(conn, row["id"], named)
    for row, labels in plan.fisks:
        fisks.insert_fisks(conn, [row], labels)
        # Above any epoch that was given out before, as long as that were less than one a second.
        leases.restore(conn, row["id"], int(time.time()))

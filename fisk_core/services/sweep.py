# SPDX-License-Identifier: Apache-2.0
"""Removes files: those a transaction just forgot, and those that a crash left without a row.

The sweeper must not take a file that is about to be named.  Whoever makes files before the transaction that
names them holds ``run/making.lock`` shared; the sweeper holds it exclusively while it lists files and reads
the catalog.  Files with a row are never touched, whatever they hold.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fisk_core import files, locks
from fisk_core.blockmap import ends, listed, sums
from fisk_core.catalog import fisks, maps, schema
from fisk_core.catalog import pools as pool_rows
from fisk_core.catalog.maps import Garbage
from fisk_core.errors import FiskError, InUse
from fisk_core.model import State
from fisk_core.pools.base import Kind, Pool
from fisk_core.services import headers

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)

_WAIT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Leak:
    """A file that nobody names; ``size`` is the space it takes, where that is known."""

    pool: str
    kind: str
    name: str
    size: int


# What a transaction forgot


def remove(context: "Context", garbage: Garbage) -> None:
    """Remove the files of what is no longer in the catalog; what cannot be removed is left to be swept."""
    for names, remove_one in (
        (garbage.fisks, _remove_header),
        (garbage.layers, _remove_layer),
        (garbage.logs, _remove_log),
        (garbage.maps, _remove_map),
    ):
        for pool, name in names:
            tidy(partial(_remove_from, context, remove_one, pool, name))
    for _, name in (*garbage.logs, *garbage.maps):
        tidy(partial(files.remove, context.home.journal(name)))


def tidy(remove_it: Callable[[], object]) -> None:
    """Remove something of what is gone already; what cannot be removed is left to be swept."""
    try:
        remove_it()
    except FiskError as exc:
        LOG.warning("something that is no longer needed stays until the next sweep: %s", exc)


def _remove_from(context: "Context", remove_one: Callable[[Pool, str], None], pool: str, name: str) -> None:
    remove_one(context.open_pool(pool), name)


def _remove_layer(pool: Pool, layer: str) -> None:
    pool.delete_device(Kind.LAYER, layer)
    if sums.wanted(pool):
        pool.delete_device(Kind.SUMS, layer)
        pool.delete_blob(listed.name_of(layer))


def _remove_log(pool: Pool, map_id: str) -> None:
    pool.delete_device(Kind.LOG, map_id)
    ends.forget(pool, map_id)


def _remove_map(pool: Pool, map_id: str) -> None:
    pool.delete_blob(f"maps/{map_id}")


def _remove_header(pool: Pool, fisk_id: str) -> None:
    pool.delete_blob(headers.name_of(fisk_id))


# What died while it was being built


def sweep_buildings(context: "Context", ids: Iterable[str] | None = None) -> int:
    """Remove unfinished imports (these, or all) whose process is gone; gives their number."""
    with context.catalog.read() as conn:
        found = fisks.records(conn, schema.fisks.c.state == State.BUILDING.value)
    wanted = None if ids is None else set(ids)
    gone = 0
    for record in found:
        if (wanted is not None and record.id not in wanted) or is_still_read(context, record):
            continue
        gone += _sweep_building(context, record.id, record.name)
    return gone


def _sweep_building(context: "Context", fisk_id: str, name: str) -> bool:
    try:
        # Whoever finishes a build, or starts its worker again, has this one while nobody has the other.
        with locks.acquire(context.home.operation(fisk_id)) as operation:
            files.remove(operation.path)
            lock = locks.acquire(context.home.lock(fisk_id))
            LOG.info("removing what an unfinished import of %s left", name)
            remove_building(context, fisk_id, lock)
    except InUse:
        return False
    return True


PIN = "move+"
"""How the names of rows begin that keep a map while its Fisk, their parent, is moved to another pool."""


def sweep_pins(context: "Context") -> int:
    """Remove what finished and interrupted moves left, where nobody needs it any more; gives the number."""
    with context.catalog.read() as conn:
        found = fisks.records(conn, schema.fisks.c.state == State.BUILDING.value)
    return sweep_buildings(context, [each.id for each in found if each.name.startswith(PIN)])


def is_still_read(context: "Context", record: fisks.Record) -> bool:
    """Whether a row keeps the old map of a moved Fisk for those who opened it before.

    Who holds the Fisk's lock now may be one of them; who takes it from now on reads the new map.
    """
    is_pin = record.name.startswith(PIN) and record.parent_id is not None
    return is_pin and locks.is_held(context.home.lock(str(record.parent_id)))


def remove_building(context: "Context", fisk_id: str, lock: locks.Lock) -> None:
    """Remove one; the caller holds its lock, which goes too.  One without a row has left only files."""
    try:
        with context.catalog.change() as conn:
            record = fisks.try_find(conn, fisk_id)
            garbage = Garbage()
            if record is not None and record.state == State.BUILDING:
                fisks.delete_fisks(conn, [fisk_id])
                garbage = maps.drop_unneeded(conn, [record.map_id])
        remove(context, garbage)
    finally:
        lock.remove()


# What has no row


def leaks(context: "Context", pool_name: str) -> list[Leak]:
    """Give the files of a pool that no row names.  The caller keeps makers away (see above)."""
    pool = context.open_pool(pool_name)
    files = list(_files(pool))  # before the catalog: what is named later is not in it
    with context.catalog.read() as conn:
        row = pool_rows.find(conn, pool_name)
        known = maps.select_maps(conn, schema.maps.c.pool_id == row.id)
        layers = maps.layer_ids(conn, pool_name)
        ids = {each.id for each in fisks.records(conn, schema.fisks.c.pool_id == row.id)}
    logs = {each.id for each in known if each.opened and not each.has_blob}
    named = {
        "layer": layers,
        "layersums": layers,
        "sums": layers,
        "log": logs,
        "ends": logs,
        "maps": {each.id for each in known if each.opened},
        "fisks": ids,
    }
    return [
        Leak(pool_name, kind, name, _size(pool, kind, name))
        for kind, name in files
        if name not in named.get(kind, ())
    ]


def _files(pool: Pool) -> Iterator[tuple[str, str]]:
    for kind in Kind:
        for name in pool.list_devices(kind):
            yield kind.value, name
    for blob in pool.list_blobs(""):
        family, _, name = blob.partition("/")
        yield family, name


def _size(pool: Pool, kind: str, name: str) -> int:
    try:
        if kind in tuple(Kind):
            return pool.usage(Kind(kind), name)
        with pool.open_blob(f"{kind}/{name}") as blob:
            return blob.size
    except FiskError:
        return 0


def sweep(context: "Context", pool_name: str, *, dry_run: bool = False) -> list[Leak]:
    """Remove the files of a pool that no row names, and its dead temporary files; gives what was found.

    Raises InUse when files are being made all the time.
    """
    with locks.acquire(context.home.making, timeout=_WAIT_SECONDS):
        found = leaks(context, pool_name)
        if not dry_run:
            _remove_leaks(context.open_pool(pool_name), found)
    if not dry_run:
        context.open_pool(pool_name).sweep_staging()
        sweep_locks(context)
        sweep_journals(context)
    return found


def _remove_leaks(pool: Pool, found: Sequence[Leak]) -> None:
    for leak in found:
        if leak.kind in tuple(Kind):
            pool.delete_device(Kind(leak.kind), leak.name)
        else:
            pool.delete_blob(f"{leak.kind}/{leak.name}")


def sweep_locks(context: "Context") -> int:
    """Remove the lock files of Fisks that are gone; gives their number."""
    with context.catalog.read() as conn:
        ids = {record.id for record in fisks.records(conn)}
    gone = 0
    directory = context.home.lock_path
    for path in files.matching(directory, "*.lock") + files.matching(directory, "*.op"):
        if not fisks.is_id(path.stem) or path.stem in ids:
            continue
        try:
            locks.acquire(path).remove()
        except InUse:
            continue
        home = context.home
        for other in (home.fence, home.incoming, home.outgoing, home.control, home.socket, home.reader):
            files.remove(other(path.stem))
        gone += 1
    return gone


def sweep_journals(context: "Context") -> int:
    """Remove the journals of periods nobody writes any more; gives their number.

    A worker that was killed between the last flush of a period and the removal of its journal leaves one.
    """
    with context.catalog.read() as conn:
        unsealed = {row.id for row in maps.select_maps(conn, schema.maps.c.sealed.is_(False))}
    gone = [path for path in files.matching(context.home.run, "*.journal") if path.stem not in unsealed]
    for path in gone:
        files.remove(path)
    return len(gone)

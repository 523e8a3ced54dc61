# SPDX-License-Identifier: Apache-2.0
"""The invariants, a function for each: it gives a finding for whatever violates it.

A finding may carry a repair.  No repair removes anything a row names, or changes what any Fisk reads.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fisk_core import locks
from fisk_core._numpy import np
from fisk_core.blockmap import BlockMap, open_sums, read_log_header, seal, verify_blob
from fisk_core.blockmap.log import read as read_log
from fisk_core.blockmap.sums import wanted
from fisk_core.catalog import Record, fisks, maps
from fisk_core.catalog.maps import MapRow
from fisk_core.catalog.schema import layers, map_layers
from fisk_core.catalog.schema import maps as maps_table
from fisk_core.errors import FiskError, InUse
from fisk_core.model import State
from fisk_core.pools.base import Kind, Pool
from fisk_core.reports import Severity
from fisk_core.services import headers, settle, sweep
from fisk_core.services.marking import has_data

if TYPE_CHECKING:
    from fisk_core.engine.context import Context


@dataclass(slots=True)
class Finding:
    """A violated invariant, and what puts it right."""

    severity: Severity
    kind: str
    subject: str
    message: str
    repair: Callable[[], object] | None = None
    removes: bool = False


@dataclass(slots=True)
class View:
    """The catalog as one transaction saw it; layers as (pool id, frozen), names as map → layers it names."""

    fisks: dict[str, Record]
    maps: dict[str, MapRow]
    layers: dict[str, tuple[int, bool]]
    names: dict[str, set[str]]
    step: Callable[[], object] = lambda: None
    """called when a rule is done with a row; what it raises ends the look"""

    def each_fisk(self) -> Iterator[Record]:
        for record in self.fisks.values():
            yield record
            self.step()

    def each_map(self) -> Iterator[MapRow]:
        for row in self.maps.values():
            yield row
            self.step()

    def rows(self, through: str) -> int:
        """Give how often a rule that goes through these makes a step."""
        return len(getattr(self, through)) if through else 0

    @property
    def pointed(self) -> set[str]:
        return {each for record in self.fisks.values() for each in (record.map_id, record.next_map) if each}


def look(context: "Context") -> View:
    """Read everything."""
    with context.catalog.read() as conn:
        names: dict[str, set[str]] = {}
        pairs = (
            select(maps_table.c.id, layers.c.id)
            .join(map_layers, map_layers.c.map == maps_table.c.num)
            .join(layers, layers.c.num == map_layers.c.layer)
        )
        for map_id, layer in conn.execute(pairs):
            names.setdefault(map_id, set()).add(layer)
        rows = conn.execute(select(layers.c.id, layers.c.pool_id, layers.c.frozen))
        return View(
            fisks={record.id: record for record in fisks.records(conn)},
            maps={row.id: row for row in maps.select_maps(conn)},
            layers={layer: (pool, frozen) for layer, pool, frozen in rows},
            names=names,
        )


def _error(kind: str, subject: str, message: str, repair: Callable[[], object] | None = None) -> Finding:
    return Finding(Severity.ERROR, kind, subject, message, repair)


def _warning(kind: str, subject: str, message: str, repair: Callable[[], object] | None = None) -> Finding:
    return Finding(Severity.WARNING, kind, subject, message, repair)


def _leak(kind: str, subject: str, message: str, repair: Callable[[], object]) -> Finding:
    return Finding(Severity.WARNING, kind, subject, message, repair, removes=True)


# Rows


def states(context: "Context", view: View) -> Iterator[Finding]:
    """A live Fisk writes into an unsealed period of its own, a frozen one points to a sealed map."""
    for record in view.each_fisk():
        row = view.maps.get(record.map_id)
        if row is None:
            yield _error("map-missing", record.name, f"its map {record.map_id} is in no pool")
            continue
        if record.state == State.BUILDING:
            continue  # also one that only keeps a map alive while its Fisk is moved
        if record.frozen and not row.opened:
            yield _error("frozen-unopened", record.name, "is frozen, but its map has no files")
        elif record.frozen and not row.sealed:
            repair = partial(_seal, context, record, row)
            yield _error("frozen-unsealed", record.name, "is frozen, but its map is not sealed", repair)
        elif not record.frozen and row.sealed:
            repair = partial(_begin_period, context, record, row)
            yield _error("live-sealed", record.name, "is live, but its map is sealed", repair)
        elif not record.frozen and row.writer != record.id:
            yield _error("foreign-period", record.name, f"writes into a period of Fisk {row.writer}")


def _seal(context: "Context", record: Record, row: MapRow) -> None:
    with locks.acquire(context.home.lock(record.id), shared=True):
        seal(context.open_pool(record.pool), row.id)
        with context.catalog.change() as conn:
            maps.mark_sealed(conn, row.id, record.size)


def _begin_period(context: "Context", record: Record, row: MapRow) -> None:
    with locks.acquire(context.home.lock(record.id)), context.catalog.change() as conn:
        fresh = maps.period(fisks.new_id(), record.pool_id, row.id, row.size or record.size, record.id)
        maps.begin_period(conn, record, fresh)


def shared_periods(context: "Context", view: View) -> Iterator[Finding]:
    """No two live Fisks write into the same period."""
    seen: dict[str, str] = {}
    for record in view.each_fisk():
        if record.frozen:
            continue
        other = seen.setdefault(record.map_id, record.name)
        if other != record.name:
            yield _error("shared-period", record.name, f"writes into the same period as '{other}'")


def map_rows(context: "Context", view: View) -> Iterator[Finding]:
    """Bases are sealed and opened; a sealed map has a size; one with a blob has no base."""
    unsettled = [record for record in view.fisks.values() if record.unsettled]
    pending = {record.base_id for record in unsettled}
    # An interrupted switch to a smaller size: what the next map is based on is still being written.
    pending |= {record.map_id for record in unsettled if record.next_map is not None}
    for row in view.each_map():
        base = view.maps.get(row.base or "")
        if base is not None and not base.opened:
            yield _error("base-unopened", row.id, f"is based on {base.id}, which has no files")
        elif base is not None and not base.sealed and base.id not in pending and row.opened:
            yield _error("base-unsealed", row.id, f"is based on {base.id}, which may still change")
        if row.sealed and row.size is None:
            yield _error("size-missing", row.id, "is sealed, but the size of its Fisk was not noted")
        if row.has_blob and row.base is not None:
            repair = partial(_forget_base, context, row)
            yield _warning("base-kept", row.id, "has a blob and still keeps its base alive", repair)


def _forget_base(context: "Context", row: MapRow) -> None:
    with context.catalog.change() as conn:
        garbage = maps.set_blob(conn, row, maps.layers_of(conn, row.id))
    sweep.remove(context, garbage)


def interrupted(context: "Context", view: View) -> Iterator[Finding]:
    """No operation on a served Fisk is half done."""
    for record in view.each_fisk():
        if record.unsettled and not locks.is_held(context.home.operation(record.id)):
            repair = partial(_finish, context, record)
            yield _warning("interrupted", record.name, "an operation on it was interrupted", repair)


def _finish(context: "Context", record: Record) -> None:
    context.finish(record.id)


def buildings(context: "Context", view: View) -> Iterator[Finding]:
    """An import under way has a process."""
    for record in view.each_fisk():
        if record.state != State.BUILDING or sweep.is_still_read(context, record):
            continue
        if not locks.is_held(context.home.lock(record.id)):
            repair = partial(sweep.sweep_buildings, context, [record.id])
            yield _leak("dead-import", record.name, "its import died and left it unfinished", repair)


def unneeded(context: "Context", view: View) -> Iterator[Finding]:
    """Every map is pointed to or a base; every layer is named."""
    needed = view.pointed | {row.base for row in view.maps.values() if row.base}
    for row in view.each_map():
        if row.id not in needed:
            yield _leak("map-leak", row.id, "is needed by nobody", partial(_drop, context, row.id))
    named = set().union(*view.names.values()) if view.names else set()
    for layer in view.layers.keys() - named:
        yield _leak("layer-leak", layer, "is named by no map", partial(_drop_layer, context, layer))


def _drop(context: "Context", map_id: str) -> None:
    with context.catalog.change() as conn:
        garbage = maps.drop_unneeded(conn, [map_id])
    sweep.remove(context, garbage)


def _drop_layer(context: "Context", layer: str) -> None:
    with context.catalog.change() as conn:
        garbage = maps.drop_layers(conn, [layer])
    sweep.remove(context, garbage)


# Files


def period_files(context: "Context", view: View) -> Iterator[Finding]:
    """An opened period without a blob has its log and layer, and the log says what the catalog says."""
    for row in view.each_map():
        if row.opened and not row.has_blob:
            yield from _period(context, row, view.names.get(row.id, set()))


def _period(context: "Context", row: MapRow, named: set[str]) -> Iterator[Finding]:
    pool = context.open_pool(row.pool)
    if named != {row.id}:
        yield _error("names", row.id, "does not name exactly its own layer")
    try:
        header = read_log_header(pool, row.id)
    except FiskError as exc:
        yield _error("log", row.id, str(exc))
        return
    if (header.base_id, header.fisk_id) != (row.base, row.writer) and not pool.has_blob(f"maps/{row.id}"):
        yield _error("log-differs", row.id, f"its log says base {header.base_id}, writer {header.fisk_id}")
    if row.base and header.base_size != row.base_size:
        yield _error("log-differs", row.id, f"its log sees {header.base_size} bytes of the base")


def blob_files(context: "Context", view: View) -> Iterator[Finding]:
    """A map with a blob has it, whole, and names the layers that the blob lists."""
    for row in view.each_map():
        if not row.has_blob:
            continue
        try:
            header = verify_blob(context.open_pool(row.pool), row.id)
        except FiskError as exc:
            yield _error("blob", row.id, str(exc))
            continue
        listed = {layer for layer in header.layers if layer}
        if listed != view.names.get(row.id, set()):
            repair = partial(_name_again, context, row, listed)
            yield _error("names", row.id, "does not name the layers that its blob lists", repair)


def _name_again(context: "Context", row: MapRow, listed: set[str]) -> None:
    with context.catalog.change() as conn:
        maps.add_layers(conn, row.pool_id, listed, frozen=True)
        garbage = maps.set_blob(conn, row, listed)
    sweep.remove(context, garbage)


def layer_files(context: "Context", view: View) -> Iterator[Finding]:
    """Every layer that a map names has its file, and is frozen when its period is."""
    names = {row.pool_id: row.pool for row in view.maps.values()}
    named = set().union(*view.names.values()) if view.names else set()
    for layer, (pool_id, frozen) in view.layers.items():
        if layer in named and pool_id not in names:
            yield _error("layer", layer, "is in another pool than every map that names it")
        elif layer in named and not context.open_pool(names[pool_id]).exists(Kind.LAYER, layer):
            yield _error("layer", layer, f"is not in pool '{names[pool_id]}'")
        row = view.maps.get(layer)
        if row is not None and row.sealed and not frozen:
            repair = partial(_freeze_layer, context, row)
            yield _warning("layer-unfrozen", layer, "its period is sealed but it is not frozen", repair)
        view.step()


def _freeze_layer(context: "Context", row: MapRow) -> None:
    with context.catalog.change() as conn:
        maps.mark_sealed(conn, row.id, row.size or 0)


def layer_sums(context: "Context", view: View) -> Iterator[Finding]:
    """Every layer of a pool that keeps checksums has them, unless an earlier version began it."""
    pools = {row.pool_id: context.open_pool(row.pool) for row in view.maps.values()}
    named = set().union(*view.names.values()) if view.names else set()
    for layer, (pool_id, _) in view.layers.items():
        pool = pools.get(pool_id)
        if pool is not None and wanted(pool) and layer in named and pool.exists(Kind.LAYER, layer):
            try:
                found, _ = open_sums(pool, layer)
            except FiskError as exc:
                yield _error("sums", layer, str(exc))
            else:
                if found is not None:
                    found.close()
        view.step()


def layer_ends(context: "Context", view: View) -> Iterator[Finding]:
    """No map points behind the end of a layer: what lay there would read as zeros."""
    damaged: set[str] = set()
    seen: set[tuple[str | None, int]] = set()
    for record in view.each_fisk():
        if record.state == State.BUILDING or (record.readable_map, record.size) in seen:
            continue
        seen.add((record.readable_map, record.size))
        try:
            with closing(context.load_map(record)) as block_map:
                damaged |= _too_short(context, record, block_map)
        except FiskError as exc:
            yield _error("map", record.name, f"cannot be read: {exc}")
    for layer in sorted(damaged):
        yield _error("layer-short", layer, "is shorter than what maps point to in it")


def _too_short(context: "Context", record: Record, block_map: BlockMap) -> set[str]:
    pool, found = context.open_pool(record.pool), set[str]()
    for alias, block in _last_blocks(block_map).items():
        layer = block_map.layers[alias]
        assert layer is not None
        if not pool.exists(Kind.LAYER, layer):
            continue  # reported by another rule
        with pool.open_device(Kind.LAYER, layer, writable=False) as device:
            if device.size <= block * block_map.block_size:
                found.add(layer)
    return found


def _last_blocks(block_map: BlockMap) -> dict[int, int]:
    """Give alias → the last block that it owns, looking from the end."""
    last: dict[int, int] = {}
    for index in reversed(range(len(block_map.segments))):
        if len(last) == len(block_map.layers) - 1:
            break
        if not has_data(block_map, index):
            continue
        owners = block_map.owners(index)
        for alias in np.unique(owners).tolist():
            if alias and alias not in last:
                last[alias] = index * len(owners) + int(np.flatnonzero(owners == alias)[-1])
    return last


_COPIED = ("name", "size", "state", "role", "parent_id", "block_size", "page_size")
"""what header and row of a Fisk say the same of, at the same revision"""


def intact(context: "Context", view: View) -> Iterator[Finding]:
    """The database that the catalog is in is whole."""
    for message in context.catalog.damage():
        yield _error("catalog", "catalog", message)


def published(context: "Context", view: View) -> Iterator[Finding]:
    """Every Fisk has a readable copy of its row in the pool, from which a lost catalog can be rebuilt."""
    for record in view.each_fisk():
        if record.state == State.BUILDING or not record.published:
            continue  # not yet: that is the background's work, and no fault
        repair = partial(settle.publish, context, [record])
        try:
            name = headers.name_of(record.id)
            header = headers.decode(context.open_pool(record.pool).get_blob(name), name)
        except FiskError as exc:
            yield _warning("header", record.name, f"its header cannot be read: {exc}", repair)
            continue
        if record.published == record.revision and header.revision < record.revision:
            yield _warning("header-old", record.name, "its header is older than the catalog says", repair)
        elif record.published == record.revision == header.revision:
            differing = [field for field in _COPIED if getattr(header, field) != getattr(record, field)]
            if differing:
                yield _error("header-differs", record.name, f"row and header differ: {', '.join(differing)}")


def rolled_back(context: "Context", view: View) -> Iterator[Finding]:
    """The catalog is as new as the pool: no header and no log tells of what it does not know."""
    latest = context.catalog.version()
    for name in context.pool_names():
        try:
            yield from _from_the_future(context.open_pool(name), latest)
        except FiskError as exc:
            yield _error("pool", name, str(exc))
    for row in view.each_map():
        if not row.opened and _has_changes(context.open_pool(row.pool), row.id):
            yield _error("catalog-old", row.id, "was written, and the catalog does not know of it")


def _from_the_future(pool: Pool, latest: int) -> Iterator[Finding]:
    for name in pool.list_blobs("fisks/"):
        try:
            header = headers.decode(pool.get_blob(name), name)
        except FiskError:
            continue  # reported by another rule, if the catalog knows the Fisk
        if header.version > latest:
            message = "its header is newer than the catalog, which seems to be an old copy; rescan the pool"
            yield _error("catalog-old", header.name, message)


def _has_changes(pool: Pool, map_id: str) -> bool:
    if not pool.exists(Kind.LOG, map_id):
        return False
    try:
        with pool.open_device(Kind.LOG, map_id, writable=False) as log:
            return read_log(log, map_id).sequence > 0
    except FiskError:
        return False  # it was just being made


def leaks(context: "Context", view: View) -> Iterator[Finding]:
    """Every file has a row."""
    for name in context.pool_names():
        try:
            found = sweep.sweep(context, name, dry_run=True)
        except InUse:
            continue  # files are being made: another time
        except FiskError as exc:
            yield _error("pool", name, str(exc))
            continue
        repair: Callable[[], Any] = partial(sweep.sweep, context, name)
        for leak in found:
            message = f"is a {leak.kind} of {leak.size} bytes that nobody names"
            yield _leak("leak", leak.name, message, repair)


RULES: tuple[tuple[Callable[["Context", View], Iterator[Finding]], str], ...] = (
    (intact, ""),
    (states, "fisks"),
    (shared_periods, "fisks"),
    (map_rows, "maps"),
    (interrupted, "fisks"),
    (buildings, "fisks"),
    (unneeded, "maps"),
    (period_files, "maps"),
    (blob_files, "maps"),
    (layer_files, "layers"),
    (layer_sums, "layers"),
    (layer_ends, "fisks"),
    (published, "fisks"),
    (rolled_back, "maps"),
    (leaks, ""),
)
"""each with what of the view it goes through"""

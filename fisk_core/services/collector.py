# SPDX-License-Identifier: Apache-2.0
"""The collector: gives back blocks of frozen layers that no map points to any more.

The rules that make it safe beside everything else that goes on:

1. Changes of the catalog have a total order.  The maps to mark are chosen in one read of it.
2. A map made later is made from maps that exist: it points only to blocks its source pointed to, or to
   layers newer than our choice.  So a block nobody points to now is never pointed to again.
3. A map that is only the base of live periods counts as those periods see it, by what their logs hold
   *durably*: the log is made durable after it was read and before its word is taken.
4. A worker may still be reading a block it has overwritten since: each worker of such a period passes a
   barrier between marking and punching.  Layers below one that another host serves are left for that host.
5. Punch, then clear the layer's suspicion; a crash in between only repeats harmless work.  A layer below a
   live period stays suspect: more of its blocks may be overwritten any time.
6. One thing does point a map to older blocks again: trimming a whole layer (``fisk_core.access.whole``).  It
   is kept out from before the maps are opened until all is punched.
7. Whoever cancels ends it between two segments: what was punched was garbage, and the layers stay suspect.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from fisk_core import errors, locks
from fisk_core.blockmap import BlockMap, load_map
from fisk_core.catalog import attachments, fisks, maps
from fisk_core.catalog.maps import MapRow
from fisk_core.dataplane import control
from fisk_core.pools.base import Device, Kind, Pool
from fisk_core.reports import CollectReport as CollectReport
from fisk_core.services.marking import Marks, blocks_per_segment, mark, runs
from fisk_core.services.meter import Meter, Progress

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)

_LAYERS_AT_ONCE = 16  # bounds the marks in memory: 16 MiB at the default geometry
_TRIMMING_SECONDS = 10.0


def collect(context: "Context", *, dry_run: bool = False, progress: Progress | None = None) -> CollectReport:
    """Look at every suspect layer once; raises InUse when another collector runs.

    ``progress`` is told bytes of address space; raising from it ends the work, and what was given back stays
    given back.
    """
    report = CollectReport(dry_run=dry_run)
    with locks.acquire(context.home.lock_path / "collector.lock"):
        work = [(pool, layers, _longest(pool, layers)) for pool, layers in _suspects(context)]
        meter = Meter(progress, sum(length for _, _, length in work))
        for pool, layers, length in work:
            end = meter.done + length
            _collect_some(context, pool, layers, report, meter)
            meter.to(end)  # also where it was left for later, or is shorter by now
    return report


def _suspects(context: "Context") -> Iterator[tuple[Pool, list[str]]]:
    """Give what to look at together."""
    for pool_name in context.pool_names():
        with context.catalog.read() as conn:
            found = maps.suspects(conn, pool_name)
        for start in range(0, len(found), _LAYERS_AT_ONCE):
            yield context.open_pool(pool_name), found[start : start + _LAYERS_AT_ONCE]


def _longest(pool: Pool, layers: Sequence[str]) -> int:
    """Give the size of the longest layer; one that cannot be opened is complained of later."""
    longest = 0
    for layer in layers:
        with (
            suppress(errors.FiskError),
            pool.open_device(Kind.LAYER, layer, writable=False) as device,
        ):
            longest = max(longest, device.size)
    return longest


def _collect_some(
    context: "Context", pool: Pool, layers: list[str], report: CollectReport, meter: Meter
) -> None:
    try:
        with ExitStack() as stack:
            stack.enter_context(locks.acquire(context.home.trimming, timeout=_TRIMMING_SECONDS))
            sources = _pointing_maps(context, pool, layers, stack)
            devices = {}
            for layer in layers:
                devices[layer] = stack.enter_context(
                    pool.open_device(Kind.LAYER, layer, writable=not report.dry_run)
                )
            _sweep([block_map for block_map, _ in sources], devices, report, meter)
            overwritten = {layer for block_map, live in sources if live for layer in block_map.layers}
    except errors.Cancelled:
        raise
    except errors.FiskError as exc:
        # One damaged map must not keep all other space from coming back; nothing it may name is punched.
        LOG.info("left %d layers for later: %s", len(layers), exc)
        report.skipped.update(dict.fromkeys(layers, str(exc)))
        return
    report.layers += len(layers)
    if not report.dry_run:
        with context.catalog.change() as conn:
            for layer in layers:
                if layer not in overwritten:
                    maps.clear_suspect(conn, layer)


def _pointing_maps(
    context: "Context", pool: Pool, layers: Sequence[str], stack: ExitStack
) -> list[tuple[BlockMap, bool]]:
    """Open every map that may point to a block of the layers, as far as it does so durably.

    Each with whether less of it may be pointed to later, because a Fisk on top of it can be written.
    """
    with context.catalog.read() as conn:
        rows = {row.id: row for layer in layers for row in maps.maps_naming(conn, layer)}
        views = [view for row in rows.values() for view in _views(conn, row)]
    opened = []
    for row, size, live in views:
        block_map = load_map(pool, row.id, size)
        stack.callback(block_map.close)
        opened.append((block_map, live))
        if not row.has_blob:
            _settle_log(context, pool, row)
    return opened


def _views(conn: Connection, row: MapRow) -> Iterator[tuple[MapRow, int, bool]]:
    """Give (map, bytes seen of it, whether writing may hide more) for all that see blocks of ``row``."""
    children = maps.children(conn, row.id)
    pointed = fisks.pointing(conn, row.id)
    if pointed or not row.has_blob or not children or any(not child.opened for child in children):
        live = not row.sealed or (not pointed and any(not child.sealed for child in children))
        yield row, _size_seen(conn, row), live
        return
    for child in children:
        yield child, _size_seen(conn, child), not child.sealed


def _size_seen(conn: Connection, row: MapRow) -> int:
    """Give how many bytes of a map anybody may see; too many keep garbage, too few lose data.

    While a snapshot is under way no Fisk points to the period that ends, and its size is not noted yet: the
    one that begins is based on it.  A period about to replace another may show more than its Fisk does.
    """
    below = [child.base_size for child in maps.children(conn, row.id)]
    return max(
        row.size or 0, row.base_size, *below, *(record.size for record in fisks.pointing(conn, row.id))
    )


def _settle_log(context: "Context", pool: Pool, row: MapRow) -> None:
    """Make durable what was read of an open period's log, and let its worker finish reading what it began.

    Raises InUse when that is a worker of another host, which cannot be asked from here.
    """
    with pool.open_device(Kind.LOG, row.id, writable=True) as log:
        log.flush()
    try:
        control.call(context.home.control(row.writer), {"op": "barrier"})
    except errors.NotFound:  # nobody serves it here, so no thread of this host reads behind anyone's back
        with context.catalog.read() as conn:
            attached = attachments.every(conn, fisk_id=row.writer)
        elsewhere = {each.host for each in attached} - {context.settings.host}
        if elsewhere:
            raise errors.InUse(
                f"Fisk {row.writer} is served on {', '.join(sorted(elsewhere))}: ask there"
            ) from None


def _sweep(sources: list[BlockMap], devices: dict[str, Device], report: CollectReport, meter: Meter) -> None:
    if not sources:
        return
    geometry = sources[0].geometry
    step = blocks_per_segment(geometry) * geometry.block_size
    longest = max(device.size for device in devices.values())
    before = {layer: device.allocated() for layer, device in devices.items()}
    live = dict.fromkeys(devices, 0)
    for index in range(-(-longest // step)):
        marks = mark(sources, list(devices), index)
        for (layer, device), selected in zip(devices.items(), marks, strict=True):
            live[layer] += int(selected.sum()) * geometry.block_size
            if not report.dry_run:
                _punch(device, index * step, ~selected, geometry.block_size)
        meter.advance(min(step, longest - index * step))
    for layer, device in devices.items():
        after = min(live[layer], before[layer]) if report.dry_run else device.allocated()
        report.reclaimed += max(0, before[layer] - after)


def _punch(device: Device, start: int, unused: Marks, block_size: int) -> None:
    """Give back the blocks of a segment that are not in use, as far as the layer reaches."""
    for first, count in runs(unused):
        offset = start + first * block_size
        length = min(count * block_size, device.size - offset)
        if length > 0:
            device.discard(offset, length)

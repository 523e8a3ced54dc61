# SPDX-License-Identifier: Apache-2.0
"""Reads everything back: the maps against their checksums, and every block that some Fisk can read.

Where the pool keeps data checksums, each block is compared; blocks nobody points to are not looked at, the
collector may have taken them.  A block of several Fisks is read once.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fisk_core.blockmap import BlockMap, owned_blocks, verify_blob
from fisk_core.blockmap.sums import wanted
from fisk_core.catalog import Record, fisks
from fisk_core.dataplane.verify import Checked, open_checked
from fisk_core.errors import Cancelled, FiskError
from fisk_core.model import State
from fisk_core.pools.base import Device, Kind, Pool
from fisk_core.reports import ScrubReport as ScrubReport
from fisk_core.services.marking import blocks_per_segment, mark, runs
from fisk_core.services.meter import Meter, Progress

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

_CHUNK = 1 << 20
_LOOKS, _PAUSE_SECONDS = 4, 0.01
"""how often, and how far apart, a live block is looked at before it counts as damaged"""


def scrub(context: "Context", refs: Sequence[str] = (), *, progress: Progress | None = None) -> ScrubReport:
    """Read back these Fisks, or all of them; raises NotFound, all else goes into the report."""
    report = ScrubReport()
    with context.catalog.read() as conn:
        found = [fisks.find(conn, ref) for ref in refs] if refs else fisks.records(conn)
    chosen = [record for record in found if record.state != State.BUILDING]
    with ExitStack() as stack:
        work = [
            (pool, layer, sources)
            for pool, sources in _open_maps(context, chosen, report, stack)
            for layer in sorted({layer for each in sources for layer in each.layers if layer})
        ]
        meter = Meter(progress, sum(_wanted_bytes(sources, layer) for _, layer, sources in work))
        for pool, layer, sources in work:
            try:
                _scrub_layer(pool, layer, sources, report, meter)
            except Cancelled:
                raise
            except FiskError as exc:
                report.blame("layer", layer, str(exc))
    return report


def _open_maps(
    context: "Context", chosen: Sequence[Record], report: ScrubReport, stack: ExitStack
) -> list[tuple[Pool, list[BlockMap]]]:
    """Open and verify each map once; gives them by pool and geometry."""
    groups: dict[tuple[str, int, int], list[BlockMap]] = {}
    unique = {(record.readable_map, record.size): record for record in chosen if record.readable_map}
    for record in unique.values():
        try:
            _verify(context, record, report)
            block_map = context.load_map(record)
            stack.callback(block_map.close)
            owned_blocks(block_map)  # every segment, of the maps below it too
        except FiskError as exc:
            report.blame("map", record.name, str(exc))
            continue
        key = (record.pool, record.block_size, record.page_size)
        groups.setdefault(key, []).append(block_map)
    return [(context.open_pool(pool), sources) for (pool, _, _), sources in groups.items()]


def _verify(context: "Context", record: Record, report: ScrubReport) -> None:
    pool, map_id = context.open_pool(record.pool), record.readable_map
    if map_id and pool.has_blob(f"maps/{map_id}"):
        verify_blob(pool, map_id)
    report.maps += 1


def _marked_runs(sources: Sequence[BlockMap], layer: str) -> Iterator[tuple[int, int]]:
    """Give (first block, blocks) of what the maps point to in a layer."""
    naming = [each for each in sources if layer in each.layers]
    step = blocks_per_segment(naming[0].geometry)
    for index in range(max(len(each.segments) for each in naming)):
        for first, count in runs(mark(naming, [layer], index)[0]):
            yield index * step + first, count


def _wanted_bytes(sources: Sequence[BlockMap], layer: str) -> int:
    return sum(count for _, count in _marked_runs(sources, layer)) * sources[0].block_size


def _scrub_layer(
    pool: Pool, layer: str, sources: Sequence[BlockMap], report: ScrubReport, meter: Meter
) -> None:
    size = sources[0].block_size
    checked = open_checked(pool, layer, sources[0].geometry) if wanted(pool) else None
    step = max(1, _CHUNK // size)
    with ExitStack() as stack:
        if checked is not None:
            stack.callback(checked.close)
        device = stack.enter_context(pool.open_device(Kind.LAYER, layer, writable=False))
        for first, count in _marked_runs(sources, layer):
            for start in range(first, first + count, step):
                blocks = min(step, first + count - start)
                bad = _compare(device, size, start, blocks, checked)
                report.bytes_read += blocks * size
                report.bytes_compared += blocks * size if checked is not None else 0
                if bad:
                    report.blame("data", layer, f"{len(bad)} blocks from byte {bad[0] * size} are damaged")
                meter.advance(blocks * size)
    report.layers += 1


def _compare(device: Device, size: int, first: int, count: int, checked: Checked | None) -> list[int]:
    """Read blocks; gives those that do not match their checksum.

    One of a live layer may just be written, its data before its checksum: it is looked at again.
    """
    bad: list[int] = []
    for look in range(_LOOKS):
        data = memoryview(bytearray(count * size))
        device.preadv([data], first * size)
        found = checked.damaged(data, first) if checked is not None else []
        bad = [block for block in found if not look or block in bad]
        if not bad:
            break
        time.sleep(_PAUSE_SECONDS)
    return bad

# SPDX-License-Identifier: Apache-2.0
"""Whole layers: a period whose layer has all of its Fisk's content, so that the file is the Fisk.

The layer is assembled by sharing extents (reflink); its log says that it owns every block.  From then on who
writes to the file writes to the Fisk, and nothing else has to be told: the file system is the map.

*Continuing in another period* (a snapshot) while others write to the file: the file must become the layer of
the new period, and the old period must get a copy of this moment.  Order, each step durable before the next:

1. the new period's layer becomes another name (hard link) of the file;
2. the new period's log says that it owns every block;
3. a clone of the file, made by one call and so of one moment, takes the place of the old period's layer.

A crash before 1 changed nothing.  Between 1 and 3 both periods read the file, and since the new one is based
on the old one both say the same.  All of it can be done again; after 3 there is nothing left to do.

*Trimming* a log afterwards, when nobody writes to its layer any more, lets the period own what was written in
it and nothing else: blocks that lie at the same place as the base's were never written.  The collector may
have seen just before that nobody needs those of the base, so it is kept out meanwhile; where it is at work
for long, the period goes on owning everything.  That takes no space, but makes differences larger than they
are.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fisk_core import _linux, locks
from fisk_core._numpy import np
from fisk_core.access.fiemap import HOLE, UNKNOWN, places
from fisk_core.blockmap import BlockMap, LogHeader, load_map, read_log_header, sums
from fisk_core.blockmap.log import Changes, rewrite
from fisk_core.blockmap.log import read as read_log
from fisk_core.errors import InUse, Unsupported, from_oserror
from fisk_core.pools.base import Device, Kind, Pool

if TYPE_CHECKING:
    from fisk_core.access.fiemap import Places

LOG = logging.getLogger(__name__)

TRIM_SECONDS = 5.0
"""How long trimming waits for the collector."""
_LIVE, _SAME = 1, 2
_SEGMENT = 1 << 30
"""bytes of a Fisk looked at together when a log is trimmed"""


def require_reflink(pool: Pool) -> None:
    """Raise Unsupported for a pool that cannot assemble whole layers, or whose data is to be compared."""
    if sums.wanted(pool):
        raise Unsupported(f"'direct' hands out a file, and pool '{pool.name}' compares what is read")
    if not pool.capabilities.reflink or pool.locate(Kind.LAYER, str(uuid.uuid4())) is None:
        raise Unsupported(
            f"'direct' needs files that share extents (reflink: XFS, Btrfs), and pool '{pool.name}' has none"
        )


def assemble(pool: Pool, source: BlockMap, fd: int, what: str) -> None:
    """Give ``fd``, an empty file of the pool, the content of ``source``, durably."""
    try:
        for offset, length, alias in source.extents(0, source.size):
            layer = source.layers[alias]
            if layer is not None:
                with pool.open_device(Kind.LAYER, layer, writable=False) as owner:
                    # Whole blocks: the map's last one may be cut by the size, the layer's is not.
                    end = min(-(-(offset + length) // source.block_size) * source.block_size, owner.size)
                    if end > offset:
                        _linux.clone_range(_fd(owner), offset, end - offset, fd, offset)
        os.ftruncate(fd, source.size)
        os.fsync(fd)
    except OSError as exc:
        raise from_oserror(exc, f"assemble {what} by sharing extents") from exc


def _fd(device: Device) -> int:
    [(fd, _, _)] = device.route(0, 0)
    return fd


def own_all(pool: Pool, header: LogHeader, size: int) -> None:
    """Have the period's log say, durably, that its layer owns every block."""
    changes: Changes = [(page, _LIVE) for page in range(header.geometry.pages(size))]
    rewrite(pool, header, changes, _LIVE)


def owns_something(pool: Pool, period: str) -> bool:
    """Whether the period's log has any change."""
    with pool.open_device(Kind.LOG, period, writable=False) as log:
        return read_log(log, period).sequence > 0


def is_current(pool: Pool, old: str, new: str) -> bool:
    """Whether ``new``, based on ``old``, has taken the file over completely."""
    return owns_something(pool, new) and not os.path.samefile(path_of(pool, old), path_of(pool, new))


def path_of(pool: Pool, period: str) -> Path:
    """Give the file of the period's layer."""
    path = pool.locate(Kind.LAYER, period)
    if path is None:
        raise Unsupported(f"pool '{pool.name}' keeps no files on this host")
    return path


def continue_in(pool: Pool, old: str, new: str, size: int, renamed: Callable[[Path], None]) -> None:
    """Have the file go on as the layer of ``new``, and ``old`` keep what it holds at this moment, durably.

    The caller keeps the sweeper away, and trims ``old`` afterwards.  ``renamed`` is called with the new path
    before the old name means something else.
    """
    prepare(pool, old, new, size, renamed)
    part(pool, old, new)


def prepare(pool: Pool, old: str, new: str, size: int, renamed: Callable[[Path], None]) -> None:
    """Do all of it that can be done before the moment (steps 1 and 2); may be repeated."""
    if is_current(pool, old, new):
        renamed(path_of(pool, new))
        return
    before, after = path_of(pool, old), path_of(pool, new)
    if not os.path.samefile(before, after):
        link = after.with_name(str(uuid.uuid4()))
        os.link(before, link)
        os.rename(link, after)
        pool.sync_device_name(Kind.LAYER, new)
    own_all(pool, read_log_header(pool, new), size)
    renamed(after)


def part(pool: Pool, old: str, new: str) -> None:
    """Have ``old`` keep what the file holds at this moment (step 3); may be repeated."""
    if not is_current(pool, old, new):
        _replace_by_clone(pool, path_of(pool, old))
        pool.sync_device_name(Kind.LAYER, old)


def _replace_by_clone(pool: Pool, path: Path) -> None:
    """Put a clone of the file in the place of one of its names."""
    copy = str(uuid.uuid4())
    with pool.open_device(Kind.LAYER, path.name, writable=True) as file:
        file.flush()
        with pool.create_device(Kind.LAYER, copy) as clone:
            try:
                _linux.clone_range(_fd(file), 0, 0, _fd(clone), 0)
            except OSError as exc:
                pool.delete_device(Kind.LAYER, copy)
                raise from_oserror(exc, f"clone {path}") from exc
            clone.flush()
    os.rename(path_of(pool, copy), path)


def trim(pool: Pool, period: str, size: int, lock: Path) -> None:
    """Have the period own only what differs from its base, in one atomic step; nobody writes to its layer.

    ``lock`` is that which keeps the collector out; nothing is done where it cannot be had.
    """
    try:
        held = locks.acquire(lock, shared=True, timeout=TRIM_SECONDS)
    except InUse:
        LOG.info("period %s goes on owning all of its layer: the collector is at work", period)
        return
    with held:
        _trim(pool, period, size)


def _trim(pool: Pool, period: str, size: int) -> None:
    header = read_log_header(pool, period)
    base = None if header.base_id is None else load_map(pool, header.base_id, header.base_size)
    try:
        with pool.open_device(Kind.LAYER, period, writable=False) as layer:
            changes = list(_changes(pool, header, layer, base, size))
    finally:
        if base is not None:
            base.close()
    rewrite(pool, header, changes, _LIVE)


def _changes(
    pool: Pool, header: LogHeader, layer: Device, base: BlockMap | None, size: int
) -> Iterator[tuple[int, int | bytes]]:
    page_size, block_size = header.geometry.page_size, header.geometry.block_size
    step = max(_SEGMENT // page_size, 1) * page_size
    for start in range(0, size, step):
        length = -(-(min(start + step, size) - start) // page_size) * page_size
        mine = places(_fd(layer), start, length, block_size)
        theirs = _base_places(pool, base, start, length, block_size)
        owners = np.full(len(mine), _LIVE, np.uint16)
        owners[(mine == theirs) & (mine != UNKNOWN)] = _SAME
        owners[(mine == HOLE) & (theirs != HOLE)] = 0
        for number, page in enumerate(owners.reshape(-1, header.geometry.blocks_per_page)):
            first = int(page[0])
            if not (page == first).all():
                yield start // page_size + number, page.tobytes()
            elif first != _SAME:
                yield start // page_size + number, first


def _base_places(pool: Pool, base: BlockMap | None, start: int, length: int, block_size: int) -> "Places":
    """Give where the blocks of the base lie in the layers that own them."""
    found = np.full(length // block_size, HOLE, np.int64)
    if base is None or start >= base.size:
        return found
    for offset, count, alias in base.extents(start, min(length, base.size - start)):
        layer = base.layers[alias]
        if layer is None:
            continue
        blocks = -(-count // block_size)
        at = (offset - start) // block_size
        with pool.open_device(Kind.LAYER, layer, writable=False) as owner:
            found[at : at + blocks] = places(_fd(owner), offset, blocks * block_size, block_size)
    return found

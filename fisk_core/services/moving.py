# SPDX-License-Identifier: Apache-2.0
"""Copies what a map names into the disk of another pool, and later only what has changed since.

Each block goes to the same place in one layer of the other pool, whichever layers it came from; where the two
pools share a file system that can, extents are shared and nothing is copied.  Where one of them keeps
checksums, data is read and compared, and written through the disk.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from fisk_core.blockmap import Geometry, diff, empty_map
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.model import Change, Extent
from fisk_core.pools.base import Pool
from fisk_core.pools.copying import copy_range
from fisk_core.services.sources import pieces

if TYPE_CHECKING:
    from fisk_core.engine.engine import Progress

_PIECE = 8 << 20
_FLUSH = 256 << 20
"""Bytes between two flushes, so that the last one has not much to do."""


class Copier:
    """Brings ``target`` up to one map after the other, each of the same Fisk at a later time."""

    def __init__(self, target: Disk, progress: "Progress | None" = None) -> None:
        self._target, self._progress = target, progress
        self._block = target.block_size
        self._geometry = Geometry(self._block, target.map.page_size)
        self._source: Disk | None = None
        self._sharing = target.pool.capabilities.reflink
        self._done, self._total, self._unflushed = 0, 0, 0

    def bring(self, pool: Pool, map_id: str, size: int) -> int:
        """Make the target read as the map does, durably; gives the bytes that were copied.

        The caller sees to it that the map stays as it is meanwhile.  Raises what reading and writing raise,
        and whatever ``progress`` raises.
        """
        # The last block as a whole: what is behind the end in it would be seen when the Fisk grows.
        whole = -(-size // self._block) * self._block
        source = Disk.open(pool, self._spec(pool, map_id, whole))
        try:
            if whole > self._target.size:
                self._target.resize(whole)
            extents = list(self._changes(source))
            before = self._done
            self._total += sum(each.length for each in extents if each.change is Change.DATA)
            self._tell(0)
            self._apply(source, extents)
        except BaseException:
            source.close()
            raise
        self.close()
        self._source = source
        self._target.flush()
        return self._done - before

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _spec(self, pool: Pool, map_id: str, size: int) -> DiskSpec:
        return DiskSpec(
            fisk_id=self._target.spec.fisk_id,
            name=self._target.spec.name,
            size=size,
            block_size=self._block,
            page_size=self._geometry.page_size,
            map_id=map_id,
            read_only=True,
            pool=pool.spec(),
        )

    def _changes(self, source: Disk) -> Iterator[Extent]:
        seen = self._source.map if self._source is not None else None
        if seen is None:
            with closing(empty_map(self._geometry, self._block)) as nothing:
                yield from diff(nothing, source.map)
        else:
            yield from diff(seen, source.map)

    def _apply(self, source: Disk, extents: Sequence[Extent]) -> None:
        for extent in extents:
            if extent.change is Change.ZERO:
                self._target.trim(extent.offset, extent.length)
        data = ((each.offset, each.length) for each in extents if each.change is Change.DATA)
        for offset, length in pieces(data, self._block, max(_PIECE, self._block), source.size):
            self._bring_range(source, offset, length)
            self._tell(length)

    def _bring_range(self, source: Disk, offset: int, length: int) -> None:
        if source.layers.checked is None and self._target.layers.checked is None:
            for fd, start, count in source.plan(offset, length):
                if fd >= 0:
                    self._copy(fd, start, count)
            return
        for start, count, owner in source.status(offset, length):
            if owner:
                self._target.write(start, source.read(start, count))

    def _copy(self, fd: int, offset: int, length: int) -> None:
        target, layer = self._target, self._target.writable().layer
        if self._sharing:
            self._sharing = target.pool.clone_range(fd, layer, offset, offset, length)
        if not self._sharing:
            [(to, at, _)] = layer.route(offset, length)
            done = copy_range(fd, offset, to, at, length)
            if done < length:  # behind the end of its file a layer reads as zeros
                layer.write_zeroes(offset + done, length - done)
        target.adopt(offset, length)

    def _tell(self, count: int) -> None:
        self._done += count
        self._unflushed += count
        if self._unflushed >= _FLUSH:
            self._target.flush()
            self._unflushed = 0
        if self._progress is not None:
            self._progress(self._done, self._total)

# SPDX-License-Identifier: Apache-2.0
"""Reads of layers that have checksums: what does not match its checksum is an error, never data.

Also keeps the checksums of a live layer as it is written; see ``blockmap.sums`` for what a crash leaves.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from fisk_core.blockmap import Geometry, LogWriter, heal, open_sums, sums
from fisk_core.blockmap.log import Changes
from fisk_core.blockmap.sums import Sums, crcs
from fisk_core.errors import Corrupt
from fisk_core.pools.base import Device, Pool

if TYPE_CHECKING:
    from array import array

_NEW, _CLOSED, _OPEN = range(3)
"""what a page of the map is to a live layer: it owns nothing there durably; closed; open for overwriting"""
_ZERO_BLOCKS = 1024  # whose checksums are recorded at once


class Recorded(Protocol):
    """Checksums of one layer, however they are stored."""

    layer_id: str
    block_size: int

    def get(self, first: int, count: int) -> "array[int]":
        """Give the checksums of ``count`` blocks from ``first``."""

    def close(self) -> None:
        """Release them."""


class Checked:
    """A layer with checksums, as it is read.  Several threads may."""

    def __init__(self, recorded: Recorded, geometry: Geometry, unknown: Iterable[int] = ()) -> None:
        """Take over ``recorded``; blocks of the pages ``unknown`` are read without being compared."""
        if recorded.block_size != geometry.block_size:
            raise Corrupt(f"the checksums of layer {recorded.layer_id} are of blocks of another size")
        self._recorded, self.block_size = recorded, geometry.block_size
        self._per_page = geometry.blocks_per_page
        self.unknown = frozenset(unknown)

    def damaged(self, view: memoryview, first: int) -> list[int]:
        """Give the blocks that do not match, of those from ``first`` on whose data ``view`` is."""
        found = crcs(view, self.block_size)
        wanted = self._recorded.get(first, len(found))
        if found == wanted:
            return []
        pairs = enumerate(zip(found, wanted, strict=True), first)
        return [
            block for block, (has, had) in pairs if has != had and block // self._per_page not in self.unknown
        ]

    def check(self, view: memoryview, first: int) -> None:
        """Raise Corrupt when a block does not match."""
        if bad := self.damaged(view, first):
            layer = self._recorded.layer_id
            raise Corrupt(
                f"block {bad[0]} of layer {layer} does not match its checksum ({len(bad)} in this read)"
            )

    def close(self) -> None:
        self._recorded.close()


def open_checked(pool: Pool, layer_id: str, geometry: Geometry) -> Checked | None:
    """Give what a layer is to be compared with, None for one begun without checksums; raises Corrupt."""
    recorded, unknown = open_sums(pool, layer_id)
    return None if recorded is None else Checked(recorded, geometry, unknown)


class Written(Checked):
    """The live layer: its checksums are kept as it is written, on the disk's own thread."""

    def __init__(self, pool: Pool, log: LogWriter, geometry: Geometry, size: int) -> None:
        """Open the checksums of the layer of ``log``; raises Corrupt when they are missing."""
        self._sums = Sums(pool, log.header.map_id, writable=True)
        try:
            super().__init__(self._sums, geometry, log.unclosed)
        except Corrupt:
            self._sums.close()
            raise
        self._log = log
        self._states = bytearray(geometry.pages(size))
        """of each page of the map: 256 KiB for a TiB"""
        for page in log.known:
            self._set(page, _CLOSED)
        for page in log.unclosed:
            self._set(page, _OPEN)  # and it stays so until it is healed
        log.known.clear()
        self._open: set[int] = set()
        self._busy: set[int] = set()
        """open pages that were written since the last flush began"""
        zeros = memoryview(bytes(self.block_size))
        self._zeros = crcs(zeros, self.block_size) * _ZERO_BLOCKS

    def heal(self, pool: Pool) -> None:
        """Take the checksums a crash left unsure, before anything is written; raises NoSpace, PoolError."""
        if not self.unknown:
            return
        heal(pool, self._log)
        for page in self.unknown:
            self._set(page, _CLOSED)
        self.unknown = frozenset()

    def _set(self, page: int, state: int) -> None:
        if page >= len(self._states):
            self._states.extend(bytes(page + 1 - len(self._states)))
        self._states[page] = state

    def to_open(self, first: int, count: int) -> list[int]:
        """Give the pages that must be opened before blocks in this range change; notes that it does."""
        pages = range(first // self._per_page, -(-(first + count) // self._per_page))
        states = self._states[pages.start : pages.stop]
        if _OPEN in states:
            self._busy.update(page for page, state in zip(pages, states, strict=False) if state == _OPEN)
        if _CLOSED not in states:
            return []
        return [page for page, state in zip(pages, states, strict=False) if state == _CLOSED]

    def open(self, pages: list[int]) -> None:
        """Say durably that blocks of these pages may stop to match; raises what the log raises."""
        self._log.open_pages(pages)
        for page in pages:
            self._states[page] = _OPEN
        self._open.update(pages)
        self._busy.update(pages)

    def put(self, first: int, view: memoryview) -> None:
        """Record the checksums of whole blocks that were just written."""
        self._sums.put(first, crcs(view, self.block_size))

    def take(self, layer: Device, first: int, count: int) -> None:
        """Record the checksums of what whole blocks hold now."""
        for start, values in sums.of_layer(layer, self.block_size, first, count):
            self._sums.put(start, values)

    def put_zeros(self, first: int, count: int) -> None:
        """Record the checksums of whole blocks that were made zeros."""
        for at in range(0, count, _ZERO_BLOCKS):
            self._sums.put(first + at, self._zeros[: count - at])

    def rest(self, changes: Changes, *, last: bool) -> list[int]:
        """Begin a flush of ``changes``: give the pages that it may close, all if it is the ``last``."""
        for page, _ in changes:
            if page >= len(self._states) or self._states[page] == _NEW:
                self._set(page, _CLOSED)
        rested = list(self._open if last else self._open - self._busy)
        for page in rested:
            self._states[page] = _CLOSED
        self._open.difference_update(rested)
        self._busy.clear()
        return rested

    @property
    def restless(self) -> bool:
        """Some page is open: a flush has something to do."""
        return bool(self._open)

    def flush(self) -> None:
        """Return when the checksums recorded so far are on stable storage."""
        self._sums.flush()


def open_written(pool: Pool, log: LogWriter, geometry: Geometry, size: int) -> Written | None:
    """Give the checksums of the live layer of ``log``, None where it was begun without."""
    return Written(pool, log, geometry, size) if log.header.sums else None

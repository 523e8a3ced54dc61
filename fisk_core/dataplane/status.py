# SPDX-License-Identifier: Apache-2.0
"""What block status reports, straight from the map: allocation, depth, and changes since another Fisk."""

from collections.abc import Iterable, Iterator

from fisk_core.blockmap import BlockMap, load_map
from fisk_core.blockmap.diff import translation
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.negotiation import ExportInfo
from fisk_core.errors import FiskError
from fisk_core.model import State
from fisk_core.pools.headers import read_header

MAX_EXTENTS = 1 << 16
"""extents in one reply; the client asks again for the rest"""
MAX_LENGTH = 0xFFFFFFFF
MAX_COMPARED = 64
"""Fisks that one export is compared with"""
CHANGED = 1 << 0
NOW_ZERO = 1 << 1


class Export(ExportInfo):
    """A disk as clients see it."""

    def __init__(self, disk: Disk, name: str, listed: bool = True) -> None:
        self.disk, self.name, self.listed = disk, name, listed
        self.waits = False
        """it will be written, once it is its turn"""
        self._compared: dict[str, tuple[int, BlockMap]] = {}

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.disk.size

    @property
    def block_size(self) -> int:  # type: ignore[override]
        return self.disk.block_size

    @property
    def description(self) -> str:  # type: ignore[override]
        kind = "frozen" if self.disk.read_only else "live"
        return f"Fisk {self.disk.spec.name}, {kind}"

    def flags(self) -> int:
        flags = nbd.TFLAG_HAS_FLAGS | nbd.TFLAG_SEND_FLUSH | nbd.TFLAG_CAN_MULTI_CONN | nbd.TFLAG_SEND_CACHE
        if self.disk.read_only and not self.waits:
            return flags | nbd.TFLAG_READ_ONLY
        flags |= nbd.TFLAG_SEND_FUA | nbd.TFLAG_SEND_TRIM | nbd.TFLAG_SEND_WRITE_ZEROES
        return flags | nbd.TFLAG_SEND_FAST_ZERO

    def contexts(self, query: str) -> list[str]:
        fixed = [nbd.CONTEXT_ALLOCATION, nbd.CONTEXT_DEPTH]
        if query.startswith(nbd.CONTEXT_DIFF) and query not in fixed:
            return [query] if self._compare(query) else []
        return [name for name in fixed if query in ("", name) or query == name.split(":")[0] + ":"]

    def context_id(self, name: str) -> int:
        if name == nbd.CONTEXT_ALLOCATION:
            return 1
        return 2 if name == nbd.CONTEXT_DEPTH else self._compared[name][0]

    def _compare(self, query: str) -> bool:
        """Open the map of the Fisk a diff context names, from the pool's own headers."""
        if query in self._compared:
            return True
        if len(self._compared) >= MAX_COMPARED:
            return False
        try:
            header = read_header(self.disk.pool, query.removeprefix(nbd.CONTEXT_DIFF))
            if header.state != State.FROZEN:
                return False  # what it holds is changing
            other = load_map(self.disk.pool, header.map_id, header.size)
        except FiskError:
            return False  # a context that cannot be had is not offered; that is the protocol's way to say so
        if other.geometry != self.disk.map.geometry or not self._related(other):
            other.close()  # a client may ask for it again and again
            return False
        self._compared[query] = (3 + len(self._compared), other)
        return True

    def _related(self, other: BlockMap) -> bool:
        """Say whether the maps have a layer in common, or the other one is empty.

        A client may know the id of a Fisk that is none of its business; where that one has data is neither.
        """
        theirs = set(other.layers[1:])
        return not theirs or not theirs.isdisjoint(self.disk.map.layers[1:])

    def compared(self, name: str) -> BlockMap:
        return self._compared[name][1]


def describe(export: ExportInfo, name: str, offset: int, length: int, one: bool) -> list[tuple[int, int]]:
    """Give (bytes, status flags) from ``offset``, neighbours with equal flags joined."""
    assert isinstance(export, Export)
    disk = export.disk
    if name == nbd.CONTEXT_ALLOCATION:
        states = _allocation(disk, offset, length)
    elif name == nbd.CONTEXT_DEPTH:
        states = _depth(disk, offset, length)
    else:
        states = _changes(disk, export.compared(name), offset, length)
    return _joined(states, 1 if one else MAX_EXTENTS)


def _joined(states: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    extents: list[tuple[int, int]] = []
    for length, flags in states:
        if extents and extents[-1][1] == flags and extents[-1][0] + length <= MAX_LENGTH:
            extents[-1] = (extents[-1][0] + length, flags)
        elif len(extents) == limit:
            break
        else:
            extents.append((length, flags))
    return extents


def _allocation(disk: Disk, offset: int, length: int) -> Iterator[tuple[int, int]]:
    for _, count, owner in disk.map.extents(offset, length):
        yield count, 0 if owner else nbd.STATE_HOLE | nbd.STATE_ZERO


def _depth(disk: Disk, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """0 unallocated, 1 the newest layer, 2 the one before it …: how far back a block was written."""
    newest = len(disk.map.layers)
    for _, count, owner in disk.map.extents(offset, length):
        yield count, newest - owner if owner else 0


def _changes(disk: Disk, other: BlockMap, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """0 the same, CHANGED, or CHANGED | NOW_ZERO, compared with the other map."""
    same = translation(other, disk.map)
    for start, count, owner in disk.map.extents(offset, length):
        inside = max(0, min(start + count, other.size) - start)
        flags = CHANGED if owner else CHANGED | NOW_ZERO
        if inside:
            for _, part, before in other.extents(start, inside):
                yield part, 0 if same[before] == owner else flags
        if count > inside:
            yield count - inside, flags if owner else 0


__all__ = ["CHANGED", "NOW_ZERO", "Export", "describe"]

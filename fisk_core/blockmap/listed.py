# SPDX-License-Identifier: Apache-2.0
"""Checksums as earlier versions recorded them: one list in a blob, made when a layer was frozen.

``sums/<layer>``, little-endian: HEADER, then for each run of blocks RUN and one CRC-32 (u32) a block, and
at the end the CRC-32 of everything before.  All blocks the layer's own map pointed to when it was frozen are
in it.  Nothing writes these any more.
"""

import zlib
from array import array
from bisect import bisect_right
from struct import Struct

from fisk_core.errors import Corrupt, Unsupported
from fisk_core.pools.base import Pool

MAGIC = b"FISKSUM\0"
VERSION = 1
HEADER = Struct("<8sII")
"""magic, version, block size."""
RUN = Struct("<QQ")
"""first block, number of blocks."""
CRC = Struct("<I")


def name_of(layer_id: str) -> str:
    return f"sums/{layer_id}"


class Listed:
    """The list of one layer, in memory."""

    def __init__(self, pool: Pool, layer_id: str) -> None:
        """Read it; raises NotFound, Corrupt or Unsupported."""
        self.layer_id, name = layer_id, name_of(layer_id)
        data = pool.get_blob(name)
        if len(data) < HEADER.size + CRC.size or CRC.unpack(data[-4:])[0] != zlib.crc32(data[:-4]):
            raise Corrupt(f"{name} does not match its checksum")
        magic, version, self.block_size = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise Corrupt(f"{name} is not a list of checksums")
        if version != VERSION:
            raise Unsupported(f"{name} was written by a newer Fisk (version {version})")
        self._runs: list[tuple[int, int, int]] = []
        self._data, at = data, HEADER.size
        while at < len(data) - CRC.size:
            first, count = RUN.unpack_from(data, at)
            self._runs.append((first, count, at + RUN.size))
            at += RUN.size + CRC.size * count

    def get(self, first: int, count: int) -> "array[int]":
        """Give what was recorded for ``count`` blocks from ``first``, 0 where nothing was."""
        found = array("I", bytes(CRC.size * count))
        at = max(0, bisect_right(self._runs, first, key=lambda run: run[0]) - 1)
        for start, blocks, position in self._runs[at:]:
            if start >= first + count:
                break
            low, high = max(first, start), min(first + count, start + blocks)
            if low < high:
                place = position + CRC.size * (low - start)
                found[low - first : high - first] = array(
                    "I", self._data[place : place + CRC.size * (high - low)]
                )
        return found

    def close(self) -> None:
        """Nothing is open."""

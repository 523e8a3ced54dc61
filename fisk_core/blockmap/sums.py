# SPDX-License-Identifier: Apache-2.0
"""CRC-32 of each block of a layer, beside the layer, where the pool was made with ``checksum=crc32``.

``layersums``: a header, then from byte 4096 one u32 for each block, at 4 times its number.  It is written
with the layer, first while the layer is live, and read with it ever after.  A sum counts only for blocks that
a map says are the layer's.

A live layer is overwritten in place, so after a crash a block may hold what it held before or what it was
given last, or part of both, and its sum may be that of either.  Such blocks must not count as damaged, and
all others must be compared.  So before a page of the map that may hold flushed blocks of the layer is
changed, the log says durably that the page is *open* (``blockmap.log``); it says so until a flush before
which the page rested.  Order of a flush: data, then sums, then the map changes, and with them which pages are
*closed* again.

What a crash leaves:

- after *open* is durable, before data or sum: an open page.  Whoever reads the layer then compares its other
  pages; whoever writes next, or seals the period, first takes the sums of what the open pages hold (``heal``
  in ``blockmap.stored``);
- in a flush before the log is durable: the same, and blocks whose first sums are there and that no map names;
- while sums are taken: open pages, to be healed again.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator
from struct import Struct
from uuid import UUID

from fisk_core.errors import Corrupt, NotFound, Unsupported
from fisk_core.pools.base import Device, Kind, Pool

MAGIC = b"FISKSUM2"
VERSION = 1
HEADER = Struct("<8sHHIII16sI")
"""magic, version, 0, incompatible / compatible / auto-clear features, layer id, block size."""
CRC = Struct("<I")
"""behind the header: the CRC-32 of it"""
FIRST = 4096
"""where the sums begin"""
WIDTH = 4

_CHUNK = 1 << 20


def wanted(pool: Pool) -> bool:
    """Whether the pool records checksums of data."""
    return pool.options.get("checksum") == "crc32"


def create(pool: Pool, layer_id: str, block_size: int) -> None:
    """Make the sums of an empty layer; their name is durable after ``sync_device_name``."""
    pool.delete_device(Kind.SUMS, layer_id)
    head = HEADER.pack(MAGIC, VERSION, 0, 0, 0, 0, UUID(layer_id).bytes, block_size)
    with pool.create_device(Kind.SUMS, layer_id, FIRST) as device:
        device.pwritev([head + CRC.pack(zlib.crc32(head))], 0)


def crcs(view: memoryview, block_size: int) -> "array[int]":
    """Give the CRC-32 of each block in ``view``."""
    if len(view) == block_size:
        return array("I", (zlib.crc32(view),))
    return array("I", [zlib.crc32(view[at : at + block_size]) for at in range(0, len(view), block_size)])


class Sums:
    """The sums of one layer, open; reading may go on in several threads."""

    def __init__(self, pool: Pool, layer_id: str, *, writable: bool = False) -> None:
        """Open them; raises Corrupt when they are missing, damaged or another layer's."""
        self.layer_id = layer_id
        try:
            self._device = pool.open_device(Kind.SUMS, layer_id, writable)
        except NotFound as exc:
            raise Corrupt(f"the checksums of layer {layer_id} are missing") from exc
        try:
            self.block_size = self._read_header()
        except BaseException:
            self._device.close()
            raise

    def _read_header(self) -> int:
        data, name = (
            bytearray(HEADER.size + CRC.size),
            f"the header of the checksums of layer {self.layer_id}",
        )
        self._device.preadv([data], 0)
        if CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]):
            raise Corrupt(f"{name} does not match its checksum")
        magic, version, _, incompatible, _, _, layer, block_size = HEADER.unpack_from(data)
        if magic != MAGIC or layer != UUID(self.layer_id).bytes:
            raise Corrupt(f"{name} is not theirs")
        if version != VERSION or incompatible:
            raise Unsupported(f"{name} needs a newer Fisk (version {version}, features {incompatible:#x})")
        return int(block_size)

    def get(self, first: int, count: int) -> "array[int]":
        """Give what was recorded for ``count`` blocks from ``first``, 0 where nothing was."""
        found = array("I", bytes(WIDTH * count))
        self._device.preadv([memoryview(found).cast("B")], FIRST + WIDTH * first)
        return found

    def put(self, first: int, values: "array[int]") -> None:
        """Record sums of blocks from ``first`` on; raises NoSpace, PoolError."""
        self._device.pwritev([memoryview(values).cast("B")], FIRST + WIDTH * first)

    def flush(self) -> None:
        """Return when all that was recorded is on stable storage."""
        self._device.flush()

    def close(self) -> None:
        self._device.close()


def of_layer(layer: Device, block_size: int, first: int, count: int) -> Iterator[tuple[int, "array[int]"]]:
    """Give (first block, sums) of what a layer holds now; what is behind its end counts as zeros."""
    step = max(1, _CHUNK // block_size)
    for start in range(first, first + count, step):
        data = bytearray(min(step, first + count - start) * block_size)
        layer.preadv([data], start * block_size)
        yield start, crcs(memoryview(data), block_size)


def take(pool: Pool, layer_id: str, runs: Iterable[tuple[int, int]]) -> None:
    """Take the sums of runs (first block, blocks) of a layer that nobody writes as it is now, durably."""
    sums = Sums(pool, layer_id, writable=True)
    try:
        with pool.open_device(Kind.LAYER, layer_id, writable=False) as layer:
            for first, count in runs:
                for start, values in of_layer(layer, sums.block_size, first, count):
                    sums.put(start, values)
        sums.flush()
    finally:
        sums.close()

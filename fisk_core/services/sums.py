# SPDX-License-Identifier: Apache-2.0
"""Checksums of a frozen layer's data, kept where the pool was made with ``checksum=crc32``.

``sums/<layer>``, little-endian: HEADER, then for each run of blocks RUN and one CRC-32 (u32) a block, and
at the end the CRC-32 of everything before.  Only blocks the layer's own map pointed to when it was frozen
are in it.
"""

import zlib
from array import array
from collections.abc import Iterator
from contextlib import closing
from struct import Struct

from fisk_core.blockmap import BlockMap, load_map
from fisk_core.errors import Corrupt, NotFound, Unsupported
from fisk_core.pools.base import Device, Kind, Pool

MAGIC = b"FISKSUM\0"
VERSION = 1
HEADER = Struct("<8sII")
"""magic, version, block size."""
RUN = Struct("<QQ")
"""first block, number of blocks."""
CRC = Struct("<I")

_CHUNK = 1 << 20


def name_of(layer_id: str) -> str:
    return f"sums/{layer_id}"


def wanted(pool: Pool) -> bool:
    """Whether the pool records checksums of data."""
    return pool.options.get("checksum") == "crc32"


def record(pool: Pool, map_id: str, size: int) -> None:
    """Write the checksums of the layer that was written in the period ``map_id``, durably."""
    with closing(load_map(pool, map_id, size)) as block_map:
        if map_id in block_map.layers:
            with pool.open_device(Kind.LAYER, map_id, writable=False) as layer:
                pool.put_blob(name_of(map_id), [_encode(block_map, layer, map_id)], durable=True)


def _encode(block_map: BlockMap, layer: Device, map_id: str) -> bytes:
    owner, size = block_map.layers.index(map_id), block_map.block_size
    parts = [HEADER.pack(MAGIC, VERSION, size)]
    for first, count, alias in block_map.runs(0, -(-block_map.size // size)):
        if alias == owner:
            parts.append(RUN.pack(first, count))
            parts.append(array("I", sums_of(layer, size, first, count)).tobytes())
    body = b"".join(parts)
    return body + CRC.pack(zlib.crc32(body))


def sums_of(layer: Device, block_size: int, first: int, count: int) -> Iterator[int]:
    """Give the CRC-32 of each of ``count`` blocks of a layer; what is behind its end counts as zeros."""
    step = max(1, _CHUNK // block_size)
    for start in range(first, first + count, step):
        blocks = min(step, first + count - start)
        data = bytearray(blocks * block_size)
        layer.preadv([data], start * block_size)
        view = memoryview(data)
        for at in range(0, len(data), block_size):
            yield zlib.crc32(view[at : at + block_size])


def load(pool: Pool, layer_id: str) -> dict[int, int] | None:
    """Give block → CRC-32 as recorded, None when nothing was; raises Corrupt or Unsupported."""
    try:
        data = pool.get_blob(name_of(layer_id))
    except NotFound:
        return None
    name = name_of(layer_id)
    if len(data) < HEADER.size + CRC.size or CRC.unpack(data[-4:])[0] != zlib.crc32(data[:-4]):
        raise Corrupt(f"{name} does not match its checksum")
    magic, version, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Corrupt(f"{name} is not a list of checksums")
    if version != VERSION:
        raise Unsupported(f"{name} was written by a newer Fisk (version {version})")
    return dict(_entries(data[HEADER.size : -CRC.size]))


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    position = 0
    while position < len(data):
        first, count = RUN.unpack_from(data, position)
        position += RUN.size
        values = array("I", data[position : position + 4 * count])
        position += 4 * count
        yield from enumerate(values, first)

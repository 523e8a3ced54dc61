# SPDX-License-Identifier: Apache-2.0
"""Fisk headers: what a pool says of each Fisk whose map it holds, enough to rebuild a lost catalog.

``fisks/<id>`` holds one line ``fisk-header 1 <CRC-32 of the rest, 8 hex digits>`` and then one JSON object.
It may be older than the catalog; what is missing from it is found in the logs and map blobs.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fisk_core.errors import Corrupt, Unsupported
from fisk_core.pools.base import Pool

MAGIC = "fisk-header"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class FiskHeader:
    """What a lost catalog needs to know of a Fisk again; the base is that of a period without files.

    ``version`` is the catalog's when this was written.  A header with a higher one than the catalog has comes
    from its future: somebody put an old copy of the catalog back.
    """

    id: str
    name: str
    size: int
    state: str
    role: str
    attributes: Mapping[str, str]
    parent_id: str | None
    block_size: int
    page_size: int
    created_at: str
    map_id: str
    opened: bool
    base_id: str | None
    base_size: int
    revision: int
    version: int


def name_of(fisk_id: str) -> str:
    return f"fisks/{fisk_id}"


def encode(header: FiskHeader) -> bytes:
    body = json.dumps(asdict(header), sort_keys=True, ensure_ascii=False).encode()
    return f"{MAGIC} {VERSION} {zlib.crc32(body):08x}\n".encode() + body


def decode(data: bytes, name: str) -> FiskHeader:
    """Give the header in a blob; raises Corrupt, or Unsupported for one of a newer Fisk."""
    line, _, body = data.partition(b"\n")
    words = line.decode("ascii", "replace").split()
    if len(words) != 3 or words[0] != MAGIC:
        raise Corrupt(f"{name} is not the header of a Fisk")
    if words[1] != VERSION:
        raise Unsupported(f"{name} was written by a newer Fisk (version {words[1]})")
    if words[2] != f"{zlib.crc32(body):08x}":
        raise Corrupt(f"{name} does not match its checksum")
    try:
        header = FiskHeader(**json.loads(body))
    except (ValueError, TypeError) as exc:
        raise Corrupt(f"{name}: {exc}") from exc
    if name_of(header.id) != name:
        raise Corrupt(f"{name} says it is of Fisk {header.id}")
    return header


def read_header(pool: Pool, fisk_id: str) -> FiskHeader:
    """Give a Fisk's header; raises NotFound, Corrupt or Unsupported."""
    name = name_of(fisk_id)
    return decode(pool.get_blob(name), name)

# SPDX-License-Identifier: Apache-2.0
"""Fisk headers: what a pool says of each Fisk whose map it holds, enough to rebuild a lost catalog.

A header is the blob ``fisks/<id>``: eight hex digits of CRC-32, a line feed, then JSON.
"""

import json
import zlib
from typing import Any

from fisk_core.errors import Corrupt
from fisk_core.pools.base import Pool

PREFIX = "fisks/"


def write_header(pool: Pool, fisk_id: str, fields: dict[str, Any], durable: bool = False) -> None:
    """Replace the header of a Fisk."""
    text = json.dumps(fields, sort_keys=True).encode()
    pool.put_blob(PREFIX + fisk_id, [b"%08x\n" % zlib.crc32(text), text], durable=durable)


def read_header(pool: Pool, fisk_id: str) -> dict[str, Any]:
    """Give the fields of a Fisk's header; raises NotFound or Corrupt."""
    data = pool.get_blob(PREFIX + fisk_id)
    crc, _, text = data.partition(b"\n")
    if crc != b"%08x" % zlib.crc32(text):
        raise Corrupt(f"the header of Fisk {fisk_id} in pool {pool.name} does not match its checksum")
    fields: dict[str, Any] = json.loads(text)
    return fields

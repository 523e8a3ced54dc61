# SPDX-License-Identifier: Apache-2.0
"""Where a log was known to end, beside the log: a log that ends before that lost something.

A batch that a crash left unfinished cannot be told from one of which later the end was lost, and a log from
yesterday looks as good as today's.  So who closes a log writes ``ends/<map>``, 20 bytes, little-endian:
magic, number of the last batch, CRC of the first batch's first sector, CRC-32 of all that.  It is not made
durable: after a power loss it may be missing, older or damaged, and says nothing then, but it never says more
than what was durable when it was written.  A log that was replaced by a compacted one has another first
sector.
"""

import zlib
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from fisk_core.errors import Corrupt, FiskError, NotFound
from fisk_core.pools.base import Pool

_MAGIC = b"FISKEND\0"
_BODY = Struct("<8sII")
_CRC = Struct("<I")


class End(NamedTuple):
    """The number of the last batch, and what the first one's first sector begins with (its CRC-32)."""

    sequence: int
    first: int

    def require(self, found: "End", name: str) -> None:
        """Raise Corrupt when a log with the end ``found`` is the beginning of the one this is the end of."""
        if found.sequence < self.sequence and found.first in (self.first, 0):
            raise Corrupt(
                f"{name} ends behind batch {found.sequence}; when it was closed it had {self.sequence}"
            )


NOWHERE = End(0, 0)
"""of a log of which nothing is known"""


def name_of(map_id: str) -> str:
    return f"ends/{map_id}"


def read(pool: Pool, map_id: str) -> End:
    """Give what is known; to be asked before the log is read, which somebody may be writing."""
    try:
        data = pool.get_blob(name_of(map_id))
    except NotFound:
        return NOWHERE
    body, crc = data[: _BODY.size], data[_BODY.size :]
    if len(data) != _BODY.size + _CRC.size or crc != _CRC.pack(zlib.crc32(body)) or body[:8] != _MAGIC:
        return NOWHERE
    return End(*_BODY.unpack(body)[1:])


def write(pool: Pool, map_id: str, end: End) -> None:
    """Note where a log ends whose last batch is durable."""
    body = _BODY.pack(_MAGIC, *end)
    with suppress(FiskError):  # a help to find damage, which nothing depends on: a full pool may lack it
        pool.put_blob(name_of(map_id), [body + _CRC.pack(zlib.crc32(body))], durable=False)


def forget(pool: Pool, map_id: str) -> None:
    """Forget where a log ends: it is replaced, or gone."""
    pool.delete_blob(name_of(map_id))

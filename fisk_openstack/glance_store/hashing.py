# SPDX-License-Identifier: Apache-2.0
"""An upload that is counted and hashed while it is read."""

import io
from typing import Any

from glance_store import exceptions
from glance_store.common import utils


class HashedStream(io.RawIOBase):
    """Reads from ``source``, which Glance has; ``verifier`` checks a signature, if there is one.

    ``expected`` is how many bytes were announced, 0 when that is not known: reading more or fewer raises
    Invalid, before anybody takes what was read for the whole.
    """

    def __init__(self, source: Any, algorithm: str, verifier: Any, expected: int = 0) -> None:
        self._source = source
        self._digest = utils.get_hasher(algorithm, False)
        self._checksum = utils.get_hasher("md5", False)
        self._verifier = verifier
        self._expected = expected
        self._rest = memoryview(b"")
        self.length = 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def head(self, count: int) -> bytes:
        """Give the first ``count`` bytes, which are still to be read; fewer if there are no more."""
        parts = [bytes(self._rest)]
        while sum(map(len, parts)) < count and (part := self._next(count)):
            parts.append(part)
        found = b"".join(parts)
        self._rest = memoryview(found)
        return found[:count]

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from its start; gives how many bytes, 0 at the end."""
        if not self._rest:  # a source may hand out its own chunks, whatever it is asked for
            self._rest = memoryview(self._next(len(buffer)))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self, count: int) -> bytes:
        data = self._source.read(count) or b""
        self.length += len(data)
        if self._expected and (self.length > self._expected or (not data and self.length < self._expected)):
            raise exceptions.Invalid(
                message=f"{self.length} bytes came where {self._expected} were announced"
            )
        self._digest.update(data)
        self._checksum.update(data)
        if self._verifier:
            self._verifier.update(data)
        return bytes(data)

    @property
    def digest(self) -> str:
        """The hash Glance asked for, of all that was read."""
        return str(self._digest.hexdigest())

    @property
    def checksum(self) -> str:
        """The MD5 of all that was read."""
        return str(self._checksum.hexdigest())

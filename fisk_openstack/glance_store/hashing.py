# SPDX-License-Identifier: Apache-2.0
"""An upload that is counted and hashed while it is read."""

import io
from typing import Any

from glance_store.common import utils


class HashedStream(io.RawIOBase):
    """Reads from ``source``, which Glance has; ``verifier`` checks a signature, if there is one."""

    def __init__(self, source: Any, algorithm: str, verifier: Any) -> None:
        self._source = source
        self._digest = utils.get_hasher(algorithm, False)
        self._checksum = utils.get_hasher("md5", False)
        self._verifier = verifier
        self._rest = memoryview(b"")
        self.length = 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from its start; gives how many bytes, 0 at the end."""
        if not self._rest:  # a source may hand out its own chunks, whatever it is asked for
            self._rest = memoryview(self._source.read(len(buffer)) or b"")
            self._note(self._rest)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _note(self, data: memoryview) -> None:
        self.length += len(data)
        self._digest.update(data)
        self._checksum.update(data)
        if self._verifier:
            self._verifier.update(data)

    @property
    def digest(self) -> str:
        """The hash Glance asked for, of all that was read."""
        return str(self._digest.hexdigest())

    @property
    def checksum(self) -> str:
        """The MD5 of all that was read."""
        return str(self._checksum.hexdigest())

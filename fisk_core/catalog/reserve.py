# SPDX-License-Identifier: Apache-2.0
"""A little space beside a SQLite catalog for the moment the disk is full: without it nobody could delete.

SQLite needs some pages for its log and index even to begin.  A file of zeros keeps them; it goes when they
are wanted and comes back when there is space again.
"""

import os
from contextlib import suppress
from pathlib import Path

from fisk_core import files

SIZE = 1 << 20
_LEFT = SIZE
"""bytes that must be left beside it: the last ones are for what was to be done when the disk was full"""


class Reserve:
    """The file ``<catalog>.reserve``."""

    def __init__(self, catalog: str) -> None:
        self._path = Path(catalog + ".reserve")

    def keep(self) -> None:
        """Have the space from now on, if there is any."""
        with suppress(OSError):  # a full, read-only or failing medium: there is nothing to keep
            if self._path.exists() or files.free_bytes(self._path.parent)[1] < SIZE + _LEFT:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(fd)

    def release(self) -> bool:
        """Give the space to whoever needs it now; False when there was none."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

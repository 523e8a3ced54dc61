# SPDX-License-Identifier: Apache-2.0
"""Notices that files were replaced which a process has read: certificates are renewed while it serves.

Certificate and key are two files, and nobody can replace both at one moment.  So a change counts when two
looks in a row found the same.
"""

import os
from collections.abc import Sequence

LOOK_SECONDS = 0.5
"""how often one should look"""

_State = tuple[int, int, int, int]


class Renewal:
    """Some files; to be made before they are read, so that no change is missed."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._paths = list(paths)
        self._used = self._seen = self._look()

    def _look(self) -> list[_State | None]:
        return [_state(path) for path in self._paths]

    def changed(self, *, at_once: bool = False) -> bool:
        """Say, once for each change, whether the files are others now; ``at_once``: with the first look."""
        now, before = self._look(), self._seen
        self._seen = now
        if now == self._used or (now != before and not at_once):
            return False
        self._used = now
        return True


def _state(path: str | os.PathLike[str]) -> _State | None:
    """Give what is another when the file is, also behind a link; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

# SPDX-License-Identifier: Apache-2.0
"""What access paths made on this host, noted beside the catalog.

A row goes with its Fisk when that is deleted by force, or with the host that took the Fisk over; what was
connected here has to be undone all the same.  The note of an attachment is written before anything is made,
and removed when it is undone.  It need not survive the host: neither does what it tells of.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

from fisk_core.config import Home
from fisk_core.errors import from_oserror

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Note:
    """The access path of an attachment, and its details."""

    access: str
    details: dict[str, Any]


class Notes:
    """The notes of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def write(self, attachment_id: str, access: str, details: dict[str, Any]) -> None:
        """Note it; raises PoolError."""
        path = self._home.note(attachment_id)
        new = path.with_suffix(".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(new, "w") as file:
                json.dump({"access": access, "details": details}, file)
            os.replace(new, path)
        except OSError as exc:
            raise from_oserror(exc, f"write {path}") from exc

    def read(self, attachment_id: str) -> Note | None:
        try:
            fields = json.loads(self._home.note(attachment_id).read_bytes())
        except FileNotFoundError:
            return None
        return Note(**fields)

    def remove(self, attachment_id: str) -> None:
        self._home.note(attachment_id).unlink(missing_ok=True)

    def list(self) -> list[str]:
        """Give the attachments that have one."""
        return [path.stem for path in self._home.note("x").parent.glob(f"*{_SUFFIX}")]

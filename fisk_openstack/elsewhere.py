# SPDX-License-Identifier: Apache-2.0
"""The daemon of this host, and those of the others with the same catalog.

What changes a Fisk while it is written is done together with its worker, and a worker is only reached from
its own host.  So the daemon there is asked.  Where a Fisk is may change in between: then the operation is
refused with InUse, as it is without knowing the others, and has changed nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk


class Everywhere(RemoteEngine):
    """One daemon, which is asked for everything but changes of what is attached on one of the ``others``.

    They have the names they give themselves.  A host that is not among them is not asked.
    """

    others: Mapping[str, RemoteEngine] = {}
    _own: str = ""

    def close(self) -> None:
        """Close all connections."""
        for each in self.others.values():
            each.close()
        super().close()

    def set(self, ref: str, **changes: Any) -> Fisk:
        """Change a Fisk's name, role, attributes; limits take effect where it is served."""
        other = self._having(ref)
        return other.set(ref, **changes) if other else super().set(ref, **changes)

    def snapshot(self, ref: str, name: str, **options: Any) -> Fisk:
        """Freeze what a Fisk holds now."""
        other = self._having(ref)
        return other.snapshot(ref, name, **options) if other else super().snapshot(ref, name, **options)

    def group_snapshot(self, pairs: Sequence[tuple[str, str]], **options: Any) -> list[Fisk]:
        """Freeze what Fisks hold at one moment; raises InUse where they are attached on several hosts."""
        having = [found for found in (self._having(ref) for ref, _ in pairs) if found]
        other = having[0] if having else None  # which refuses what is served by yet another, or here
        found = other.group_snapshot(pairs, **options) if other else super().group_snapshot(pairs, **options)
        return list(found)

    def clone(self, ref: str, name: str, **options: Any) -> list[Fisk]:
        """Make a Fisk that begins as another is now."""
        other = self._having(ref)
        found = other.clone(ref, name, **options) if other else super().clone(ref, name, **options)
        return list(found)

    def resize(self, ref: str, size: int, *, shrink: bool = False) -> Fisk:
        """Set the size of a Fisk; devices of it show that."""
        other = self._having(ref)
        return other.resize(ref, size, shrink=shrink) if other else super().resize(ref, size, shrink=shrink)

    def _having(self, ref: str) -> RemoteEngine | None:
        """Give the other daemon by which a Fisk is served for writing, None for this one."""
        if not self.others:
            return None
        self._own = self._own or str(self.about()["host"])
        found = self.attachments(fisk=ref)
        # A host that a guest is moving to does not write yet.
        writers = [each.host for each in found if not (each.read_only or each.incoming)]
        if self._own in writers:
            return None
        return next((self.others[each] for each in writers if each in self.others), None)

# SPDX-License-Identifier: Apache-2.0
"""What a volume held when its last backup was made elsewhere.

A snapshot of the volume, in its own pool, that only stays to tell what has changed when the next backup is
made.  There is one of each volume; without it, backups are compared block by block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fisk_core.client import RemoteEngine
from fisk_core.errors import NotFound
from fisk_core.model import Extent, Fisk
from fisk_openstack.labels import PROJECT, Kind, fisk_id, fisk_name, labels, search

if TYPE_CHECKING:
    from fisk_openstack.cinder.backup.target import Order

ROLE = "backup-base"
VOLUME = "openstack.base.volume"
"""Attribute of it: the id of the volume."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A frozen Fisk that is, from now on, the last state of a volume that was backed up."""

    engine: RemoteEngine
    fisk: Fisk

    @classmethod
    @contextmanager
    def taken(cls, engine: RemoteEngine, order: "Order", source: Fisk) -> Iterator[Self]:
        """Freeze what a Fisk holds now.  If the block fails it goes, else the ones before go."""
        fisk = engine.snapshot(
            source.id,
            fisk_name(Kind.BASE, order.own.backup),
            role=ROLE,
            attributes=labels(Kind.BASE, order.own.backup, project=order.labels.get(PROJECT))
            | {VOLUME: order.own.volume},
            id=fisk_id(Kind.BASE, order.own.backup),
        )
        try:
            yield cls(engine, fisk)
        except BaseException:
            _delete(engine, fisk.id)
            raise
        cls.forget(engine, order.own.volume, but=fisk.id)

    def changes(self, backup_id: str | None) -> Iterator[Extent] | None:
        """Give what may have changed since a backup, None where nobody knows."""
        before = search(self.engine, Kind.BASE, backup_id) if backup_id else None
        return None if before is None else self.engine.diff(before.id, self.fisk.id)

    @staticmethod
    def drop(engine: RemoteEngine, backup_id: str) -> None:
        """Delete what was kept for the backup after this one; that one will be compared."""
        found = search(engine, Kind.BASE, backup_id)
        if found is not None:
            _delete(engine, found.id)

    @staticmethod
    def forget(engine: RemoteEngine, volume_id: str, *, but: str | None = None) -> None:
        """Delete what is kept of a volume."""
        for fisk in engine.list(attributes={VOLUME: volume_id}):
            if fisk.id != but:
                _delete(engine, fisk.id)


def _delete(engine: RemoteEngine, own: str) -> None:
    try:
        engine.delete(own, force=True)
    except NotFound:
        return

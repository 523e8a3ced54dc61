# SPDX-License-Identifier: Apache-2.0
"""Volumes and their snapshots: created, cloned, extended, reverted, deleted.  No data is copied anywhere."""

from typing import Any

from fisk_core.model import Fisk, Role
from fisk_openstack.cinder.base import GIB, Base, snapshot_labels, volume_labels
from fisk_openstack.cinder.bases import Kept
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.qos import wishes_of
from fisk_openstack.labels import Kind, fisk_id, fisk_name


class Volumes(Base):
    """The verbs Cinder has for one volume or snapshot."""

    def create_volume(self, volume: Any) -> None:
        """Make an empty volume."""
        with cinder_errors(volume.id):
            self.engine.create(
                fisk_name(Kind.VOLUME, volume.name_id),
                volume.size * GIB,
                pool=self.pool,
                attributes=volume_labels(volume) | wishes_of(volume),
                id=fisk_id(Kind.VOLUME, volume.name_id),
            )

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume, whatever was made from it."""
        with cinder_errors(volume.id):
            self._remove(Kind.VOLUME, volume.name_id)
            Kept.forget(self.engine, volume.id)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Make a volume ``new_size`` GiB large, also while it is attached."""
        with cinder_errors(volume.id):
            fisk = self.engine.resize(self._volume(volume).id, int(new_size) * GIB)
            wishes = wishes_of(volume, size=int(new_size))  # some limits grow with the size
            if any(fisk.attributes.get(key) != value for key, value in wishes.items()):
                self.engine.set(fisk.id, attributes=dict(wishes))

    def create_snapshot(self, snapshot: Any) -> None:
        """Keep what a volume holds now."""
        with cinder_errors(snapshot.volume_id):
            self.engine.snapshot(
                self._volume(snapshot.volume).id,
                fisk_name(Kind.SNAPSHOT, snapshot.id),
                attributes=snapshot_labels(snapshot),
                id=fisk_id(Kind.SNAPSHOT, snapshot.id),
            )

    def delete_snapshot(self, snapshot: Any) -> None:
        """Delete a snapshot, whatever was made from it."""
        with cinder_errors(snapshot.volume_id):
            self._remove(Kind.SNAPSHOT, snapshot.id)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """Make a volume that begins as a snapshot."""
        with cinder_errors(volume.id):
            self._clone(self._snapshot(snapshot).id, volume)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """Make a volume that begins as another one is now."""
        with cinder_errors(volume.id):
            self._clone(self._volume(src_vref).id, volume)

    def _clone(self, source: str, volume: Any, size: int | None = None) -> Fisk:
        """Make a volume from a Fisk, of the volume's size or ``size`` GiB."""
        size = volume.size if size is None else size
        (made,) = self.engine.clone(
            source,
            fisk_name(Kind.VOLUME, volume.name_id),
            role=Role.VOLUME,
            size=size * GIB,
            attributes=volume_labels(volume) | wishes_of(volume, size=size),
            id=fisk_id(Kind.VOLUME, volume.name_id),
        )
        if made.pool == self.pool:
            return made
        try:
            return self.engine.move(made.id, self.pool)
        except BaseException:
            self.engine.delete(made.id)
            raise

    def revert_to_snapshot(self, context: Any, volume: Any, snapshot: Any) -> None:
        """Give a volume back what a snapshot holds; a volume that grew since stays as large as it is."""
        with cinder_errors(volume.id):
            fisk = self._volume(volume)
            self.engine.revert(fisk.id, self._snapshot(snapshot).id)
            self.engine.resize(fisk.id, volume.size * GIB)

    def snapshot_revert_use_temp_snapshot(self) -> bool:
        """A revert is one step: nothing needs to be kept in case it fails half-way."""
        return False

# SPDX-License-Identifier: Apache-2.0
"""Groups of volumes: the snapshots of all members show one point in time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cinder.objects import fields

from fisk_core.model import Fisk
from fisk_openstack.cinder.base import snapshot_labels
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.volumes import Volumes
from fisk_openstack.labels import Kind, fisk_id, fisk_name, labels

Updates = list[dict[str, str]]


class Groups(Volumes):
    """Generic groups.  Who is a member, Cinder knows; a Fisk does not."""

    def create_group(self, context: Any, group: Any) -> dict[str, str]:
        """There is nothing to do."""
        return {"status": fields.GroupStatus.AVAILABLE}

    def update_group(
        self, context: Any, group: Any, add_volumes: Any = None, remove_volumes: Any = None
    ) -> tuple[None, None, None]:
        """There is nothing to do."""
        return None, None, None

    def delete_group(
        self, context: Any, group: Any, volumes: Sequence[Any]
    ) -> tuple[dict[str, str], Updates]:
        """Delete a group and its volumes, all or none of them."""
        with cinder_errors(group.id):
            self._remove_all(Kind.VOLUME, [volume.name_id for volume in volumes])
        return {"status": fields.GroupStatus.DELETED}, _all(volumes, fields.GroupStatus.DELETED)

    def create_group_snapshot(
        self, context: Any, group_snapshot: Any, snapshots: Sequence[Any]
    ) -> tuple[dict[str, str], Updates]:
        """Keep what all volumes of a group hold at one point in time."""
        pairs = [(self._volume(each.volume).id, fisk_name(Kind.SNAPSHOT, each.id)) for each in snapshots]
        with cinder_errors(group_snapshot.id):
            self.engine.group_snapshot(
                pairs,
                attributes=[snapshot_labels(each) for each in snapshots],
                ids=[fisk_id(Kind.SNAPSHOT, each.id) for each in snapshots],
            )
        return {"status": "available"}, _all(snapshots, fields.SnapshotStatus.AVAILABLE)

    def delete_group_snapshot(
        self, context: Any, group_snapshot: Any, snapshots: Sequence[Any]
    ) -> tuple[dict[str, str], Updates]:
        """Delete the snapshots of a group, all or none of them."""
        with cinder_errors(group_snapshot.id):
            self._remove_all(Kind.SNAPSHOT, [snapshot.id for snapshot in snapshots])
        return {"status": "deleted"}, _all(snapshots, fields.SnapshotStatus.DELETED)

    def create_group_from_src(
        self,
        context: Any,
        group: Any,
        volumes: Sequence[Any],
        group_snapshot: Any = None,
        snapshots: Sequence[Any] | None = None,
        source_group: Any = None,
        source_vols: Sequence[Any] | None = None,
    ) -> tuple[None, None]:
        """Make volumes from the snapshots of a group, or from another group as it is now."""
        with cinder_errors(group.id):
            if snapshots:
                self._clone_all([self._snapshot(each).id for each in snapshots], volumes)
            elif source_vols:
                self._clone_group([self._volume(each).id for each in source_vols], volumes)
        return None, None

    def _clone_group(self, sources: Sequence[str], volumes: Sequence[Any]) -> None:
        """Make volumes from others as they are at one point in time."""
        pairs = [
            (source, fisk_name(Kind.VOLUME, each.name_id) + "-source")
            for source, each in zip(sources, volumes, strict=True)
        ]
        # Left behind by a crash, they are snapshots that Cinder does not know: reconciling finds them.
        marks = [labels(Kind.SNAPSHOT, each.name_id, project=each.project_id) for each in volumes]
        between = self.engine.group_snapshot(pairs, attributes=marks)
        try:
            self._clone_all([each.id for each in between], volumes)
        finally:
            self.engine.delete(*[each.id for each in between])

    def _clone_all(self, sources: Sequence[str], volumes: Sequence[Any]) -> None:
        """Make all volumes or none."""
        with self._undone() as made:
            for source, volume in zip(sources, volumes, strict=True):
                made.append(self._clone(source, volume))

    def _remove_all(self, kind: Kind, owns: Iterable[str]) -> None:
        """Delete Fisks, all or none; those that are not there are deleted already."""
        found = [fisk.id for own in owns if (fisk := self._search(kind, own))]
        if found:
            self.engine.delete(*found)

    @contextmanager
    def _undone(self) -> Iterator[list[Fisk]]:
        """Give a list; the Fisks in it are deleted when the block fails."""
        made: list[Fisk] = []
        try:
            yield made
        except BaseException:
            if made:
                self.engine.delete(*[fisk.id for fisk in made])
            raise


def _all(things: Iterable[Any], status: str) -> Updates:
    return [{"id": thing.id, "status": status} for thing in things]

# SPDX-License-Identifier: Apache-2.0
"""Volumes that change their type, their pool or their owner."""

from collections.abc import Mapping
from typing import Any

from cinder import objects

from fisk_core.errors import NotFound
from fisk_core.model import PoolInfo
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.qos import wishes_of, without
from fisk_openstack.cinder.volumes import Volumes
from fisk_openstack.labels import PROJECT, SHOWN


def location_of(pool: PoolInfo) -> str:
    """Say which pool a back end has, to one that may have the same daemon."""
    return f"{pool.id}:{pool.name}"


class Migrating(Volumes):
    """Nothing here copies more than Fisk itself does, which is nothing within a pool."""

    def retype(
        self, context: Any, volume: Any, new_type: Any, diff: Any, host: Mapping[str, Any]
    ) -> tuple[bool, None]:
        """Give a volume what its new type asks for; whoever uses it need not know."""
        with cinder_errors(volume.id):
            self.engine.set(self._volume(volume).id, attributes=without() | wishes_of(volume, new_type))
        return True, None

    def migrate_volume(self, context: Any, volume: Any, host: Mapping[str, Any]) -> tuple[bool, None]:
        """Move a volume to the pool of another back end; gives (whether that was possible, None)."""
        with cinder_errors(volume.id):
            pool = self._pool_at(host)
            if pool is None:
                return False, None
            fisk = self._volume(volume)
            if fisk.pool != pool:
                self.engine.move(fisk.id, pool)
        return True, None

    def _pool_at(self, host: Mapping[str, Any]) -> str | None:
        """Give the pool a back end has, None for one that our daemon does not have."""
        location = str(host.get("capabilities", {}).get("location_info", ""))
        name = location.partition(":")[2]
        try:
            return name if name and location_of(self.engine.pool(name)) == location else None
        except NotFound:
            return None

    def update_migrated_volume(
        self, context: Any, volume: Any, new_volume: Any, original_volume_status: str
    ) -> dict[str, str | None]:
        """Note that what was copied into ``new_volume`` is ``volume`` from now on.

        The Fisk stays under the id of ``new_volume``: that of ``volume`` is still in use for what was copied.
        """
        with cinder_errors(volume.id):
            self.engine.set(self._volume(new_volume).id, attributes={SHOWN: volume.id})
        return {"_name_id": new_volume.name_id, "provider_location": None}

    def accept_transfer(self, context: Any, volume: Any, new_user: str, new_project: str) -> None:
        """Note to which project a volume and its snapshots belong now."""
        with cinder_errors(volume.id):
            snapshots = objects.SnapshotList.get_all_for_volume(context, volume.id)
            for fisk in (self._volume(volume), *map(self._snapshot, snapshots)):
                self.engine.set(fisk.id, attributes={PROJECT: new_project})

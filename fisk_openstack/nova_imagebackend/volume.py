# SPDX-License-Identifier: Apache-2.0
"""Volumes of Cinder in guests: this host attaches the Fisk, the guest reads it over NBD or as a device."""

from contextlib import suppress
from typing import Any

from nova.compute import task_states
from nova.virt.libvirt.volume import volume as base

from fisk_core.errors import NotFound
from fisk_core.model import Attachment
from fisk_openstack.nova_imagebackend import daemon, guests, paths

_EVACUATED = (
    task_states.REBUILDING,
    task_states.REBUILD_BLOCK_DEVICE_MAPPING,
    task_states.REBUILD_SPAWNING,
)


def arrives(instance: Any) -> bool:
    """Whether a server is about to move here, running.  (Nothing is connected on the host it leaves.)"""
    return bool(instance.task_state == task_states.MIGRATING)


def comes_over(instance: Any) -> bool:
    """Whether a server may be taken over from another host: it is built again, maybe because that is dead."""
    return instance.task_state in _EVACUATED


class LibvirtFiskVolumeDriver(base.LibvirtBaseVolumeDriver):  # type: ignore[misc]  # Nova carries no types
    """Connection information of the type ``fisk``."""

    def __init__(self, host: Any) -> None:
        super().__init__(host, is_block_dev=False)
        self.connector = None

    def connect_volume(self, connection_info: Any, instance: Any) -> None:
        """Attach the Fisk here; a device of it is in ``device_path`` then, for encryptors and for libvirt."""
        data = connection_info["data"]
        access = guests.access_to_volume(encrypted=bool(data.get("encrypted")))
        found = daemon.attach(
            data["fisk_id"],
            instance.uuid,
            access,
            read_only=data.get("access_mode") == "ro",
            steal=comes_over(instance) and daemon.elsewhere(data["fisk_id"]),
            incoming=arrives(instance) and daemon.elsewhere(data["fisk_id"]),
        )
        data["server"], data["attachment_id"] = instance.uuid, found.id
        data.pop("device_path", None)
        if found.path:
            data["device_path"] = paths.volume_path(instance.uuid, data["volume_id"])
            paths.link(data["device_path"], found.path)

    def get_config(self, connection_info: Any, disk_info: Any) -> Any:
        """Give the guest's configuration of a volume that was connected."""
        disk = guests.GuestDisk(super().get_config(connection_info, disk_info))
        data = connection_info["data"]
        guests.point(disk, self._attachment(data), data.get("device_path", ""))
        return disk

    def _attachment(self, data: Any) -> Attachment:
        """Give what ``connect_volume`` made: maybe on another host, to which the guest is moving."""
        with suppress(KeyError, NotFound):
            return daemon.engine().attachment(data["attachment_id"])
        return daemon.attachment(data["fisk_id"], data["server"])

    def disconnect_volume(self, connection_info: Any, instance: Any, force: bool = False) -> None:
        """Detach it; what was written is durable then."""
        data = connection_info["data"]
        daemon.detach(data["fisk_id"], instance.uuid, force=force)
        paths.unlink(paths.volume_path(instance.uuid, data["volume_id"]))

    def extend_volume(self, connection_info: Any, instance: Any, requested_size: int) -> int:
        """Say how large it is now: a device follows its Fisk by itself.

        Raises NotImplementedError for a guest that speaks NBD; see ``guests.access_to_volume``.
        """
        if "device_path" not in connection_info["data"]:
            raise NotImplementedError
        return int(daemon.engine().get(connection_info["data"]["fisk_id"]).size)

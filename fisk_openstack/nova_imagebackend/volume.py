# SPDX-License-Identifier: Apache-2.0
"""Volumes of Cinder in guests: this host attaches the Fisk, the guest reads it over NBD."""

from typing import Any

from nova.virt.libvirt.volume import volume as base

from fisk_openstack.nova_imagebackend import daemon


class LibvirtFiskVolumeDriver(base.LibvirtBaseVolumeDriver):  # type: ignore[misc]  # Nova carries no types
    """Connection information of the type ``fisk``."""

    def __init__(self, host: Any) -> None:
        super().__init__(host, is_block_dev=False)
        self.connector = None

    def connect_volume(self, connection_info: Any, instance: Any) -> None:
        """Attach the Fisk here."""
        self._attach(connection_info, instance.uuid)

    def _attach(self, connection_info: Any, consumer: str) -> Any:
        data = connection_info["data"]
        return daemon.attach(data["fisk_id"], consumer, read_only=data.get("access_mode") == "ro")

    def get_config(self, connection_info: Any, disk_info: Any) -> Any:
        """Give the guest's configuration of the disk."""
        disk = super().get_config(connection_info, disk_info)
        daemon.point(disk, self._attach(connection_info, ""))
        return disk

    def disconnect_volume(self, connection_info: Any, instance: Any, force: bool = False) -> None:
        """Detach it; what was written is durable then."""
        daemon.detach(connection_info["data"]["fisk_id"])

    def extend_volume(self, connection_info: Any, instance: Any, requested_size: int) -> int:
        """Say how large it is now."""
        return int(daemon.engine().get(connection_info["data"]["fisk_id"]).size)

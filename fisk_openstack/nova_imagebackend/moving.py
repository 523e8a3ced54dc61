# SPDX-License-Identifier: Apache-2.0
"""Servers that change their size or their host.

Their disks stay where they are; what moves is who uses them.  So neither ssh nor a directory that hosts share
is needed, and what a resize can be reverted to is a snapshot of every disk.
"""

import os
import shutil
from typing import Any

from nova import exception
from nova.virt.libvirt import utils as libvirt_utils

from fisk_core.model import Role
from fisk_openstack.labels import Kind, fisk_id, fisk_name
from fisk_openstack.nova_imagebackend import daemon, paths

KEPT = f"@{libvirt_utils.RESIZE_SNAPSHOT_NAME}"
"""What the name of a disk ends with that was kept for a resize to be reverted."""
_SWAP = "disk.swap"


class Moving:
    """Part of the compute driver."""

    image_backend: Any

    def _release(self, server: str) -> None:
        """End what this host has attached for a server, whose guest is off."""
        daemon.release(server)
        for path in (paths.path_of(server), paths.volume_path(server, "")):
            shutil.rmtree(path, ignore_errors=True)

    # Resize and cold migration

    def _is_path_shared_with(self, dest: str, path: str) -> bool:
        """Say yes: nothing in an instance's directory is needed elsewhere."""
        return True

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Any,
        dest: str,
        flavor: Any,
        network_info: Any,
        block_device_info: Any = None,
        timeout: int = 0,
        retry_interval: int = 0,
    ) -> str:
        """Turn the guest off, keep every disk as it is now, and let go of them."""
        found: str = super().migrate_disk_and_power_off(  # type: ignore[misc]  # of Nova's driver
            context, instance, dest, flavor, network_info, block_device_info, timeout, retry_interval
        )
        base = libvirt_utils.get_instance_path(instance)
        try:
            self._keep(instance)
        except BaseException:
            self._cleanup_remote_migration(None, base, f"{base}_resize", True)  # type: ignore[attr-defined]
            raise
        if dest != self.get_host_ip_addr():  # type: ignore[attr-defined]
            shutil.rmtree(base, ignore_errors=True)  # made for a host that shares it
        return found

    def _keep(self, instance: Any) -> None:
        """Keep all disks of a server; swap is made anew, in the size of the new flavor."""
        self._forget(instance.uuid)  # of an attempt that failed
        self._release(instance.uuid)
        for name in daemon.disks(instance.uuid):
            self.image_backend.by_name(instance, name).create_snap(libvirt_utils.RESIZE_SNAPSHOT_NAME)
        swap = daemon.disks(instance.uuid).get(_SWAP)
        if swap:
            daemon.delete(swap)

    def _forget(self, server: str) -> None:
        """Delete what was kept for a resize to be reverted."""
        daemon.delete(*(own for name, own in daemon.disks(server).items() if name.endswith(KEPT)))

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: str,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """Start the guest here; raises DiskNotFound where its disks are not, for they would be made anew."""
        from_volume = self._is_booted_from_volume(block_device_info)  # type: ignore[attr-defined]
        if not from_volume and "disk" not in daemon.disks(instance.uuid):
            raise exception.DiskNotFound(location=paths.path_of(f"{instance.uuid}/disk"))
        super().finish_migration(  # type: ignore[misc]
            context,
            migration,
            instance,
            disk_info,
            network_info,
            image_meta,
            resize_instance,
            allocations,
            block_device_info,
            power_on,
            share_info,
        )

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """Give every disk back what it held, and start the guest here."""
        self._give_back(instance)
        super().finish_revert_migration(  # type: ignore[misc]
            context, instance, network_info, migration, block_device_info, power_on, share_info
        )
        self._forget(instance.uuid)

    def _give_back(self, instance: Any) -> None:
        """Revert all disks but the root, which Nova does; what was not there before goes."""
        found = daemon.disks(instance.uuid)
        kept = {name.removesuffix(KEPT): own for name, own in found.items() if name.endswith(KEPT)}
        if not kept:
            return
        for name in kept.keys() & found.keys() - {"disk"}:
            daemon.engine().revert(found[name], kept[name])
        for name in kept.keys() - found.keys():
            self._give_again(instance, name, kept[name])
        daemon.delete(*(found[name] for name in found.keys() - kept.keys() if not name.endswith(KEPT)))

    def _give_again(self, instance: Any, name: str, kept: str) -> None:
        own = f"{instance.uuid}/{name}"
        attributes = {**daemon.engine().get(kept).attributes, Kind.DISK.value: own}
        daemon.engine().clone(
            kept,
            fisk_name(Kind.DISK, own),
            role=Role.DISK,
            attributes=attributes,
            id=fisk_id(Kind.DISK, own),
        )

    def confirm_migration(self, context: Any, migration: Any, instance: Any, network_info: Any) -> None:
        """Forget what a revert would have needed."""
        super().confirm_migration(context, migration, instance, network_info)  # type: ignore[misc]
        self._forget(instance.uuid)

    # Other hosts

    def instance_on_disk(self, instance: Any) -> bool:
        """Whether this host can reach the disks of a server that is to be evacuated."""
        if os.access(libvirt_utils.get_instance_path(instance), os.W_OK):
            return True
        return "disk" in daemon.disks(instance.uuid) or not instance.image_ref

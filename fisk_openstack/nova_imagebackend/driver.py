# SPDX-License-Identifier: Apache-2.0
"""The compute driver: ``compute_driver = fisk.FiskLibvirtDriver``."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fisk_openstack.nova_imagebackend import registration

registration.prepare()

from nova import exception  # noqa: E402  # it must find our type of images
from nova.compute import power_state, task_states  # noqa: E402
from nova.virt.libvirt import driver as libvirt_driver  # noqa: E402
from oslo_log import log as logging  # noqa: E402

registration.register()

from fisk_openstack.nova_imagebackend import daemon, guests, paths, quiet, signatures  # noqa: E402
from fisk_openstack.nova_imagebackend.migrating import Migrating  # noqa: E402
from fisk_openstack.nova_imagebackend.moving import Moving  # noqa: E402
from fisk_openstack.nova_imagebackend.volume import LibvirtFiskVolumeDriver  # noqa: E402

LOG = logging.getLogger(__name__)
FORMATS = ("qcow2", "raw", "vdi", "vhd", "vhdx", "vmdk")
"""Formats of images that clone: Glance's store for Fisks has a raw twin of each."""
_GIB = 1 << 30


class FiskLibvirtDriver(Moving, Migrating, libvirt_driver.LibvirtDriver):  # type: ignore[misc]  # Nova carries no types
    """The libvirt driver with disks that are Fisks."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi, read_only)
        self.capabilities |= {f"supports_image_type_{each}": True for each in FORMATS}

    def init_host(self, host: str) -> None:
        """Find out how guests can reach their disks here."""
        super().init_host(host)
        guests.knows(self._host.get_connection().getLibVersion())
        LOG.info("guests reach their disks by '%s'", guests.access())

    # Gone

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Detach what the server has here, and delete its disks if that is wanted: those it owns."""
        super().cleanup(
            context,
            instance,
            network_info,
            block_device_info,
            destroy_disks,
            migrate_data,
            destroy_vifs,
            destroy_secrets,
        )
        self._release(instance.uuid)
        if destroy_disks:
            daemon.delete(*daemon.disks(instance.uuid).values())
        elif migrate_data is None and _is_elsewhere(instance):
            # Nova keeps the directory where disks are shared, but that is not, and nobody would remove it.
            shutil.rmtree(libvirt_driver.libvirt_utils.get_instance_path(instance), ignore_errors=True)

    def _should_disconnect_target(
        self, context: Any, instance: Any, multiattach: bool, vol_driver: Any, volume_id: str
    ) -> bool:
        """Every server has an attachment of its own, so it can always be ended."""
        if isinstance(vol_driver, LibvirtFiskVolumeDriver):
            return True
        return bool(super()._should_disconnect_target(context, instance, multiattach, vol_driver, volume_id))

    # Kept

    def snapshot(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        """Make an image of the root disk at once, with the guest's file systems quiet if it can do that."""
        with quiet.by(lambda: self._quieted(context, instance)):
            super().snapshot(context, instance, image_id, update_task_state)

    @contextmanager
    def _quieted(self, context: Any, instance: Any) -> Iterator[None]:
        """Hold a running guest still; raises what keeps it from that if its image says that it must be."""
        frozen = False
        if self.get_info(instance).state == power_state.RUNNING:
            try:
                self.quiesce(context, instance, instance.image_meta)
                frozen = True
            except exception.NovaException as problem:
                if self._requires_quiesce(instance.image_meta):
                    raise
                LOG.info("the guest is not made quiet: %s", problem, instance=instance)
        try:
            yield
        finally:
            if frozen:
                self.unquiesce(context, instance, instance.image_meta)

    def _live_snapshot(
        self,
        context: Any,
        instance: Any,
        guest: Any,
        disk_path: str,
        out_path: str,
        source_format: str,
        image_format: str,
        image_meta: Any,
    ) -> None:
        """Write the root disk as it is now into a file, where Glance does not take its location."""
        disk = self.image_backend.by_libvirt_path(instance, disk_path, image_type=registration.IMAGES_TYPE)
        disk.snapshot_extract(out_path, image_format)

    # Rescue and config drives

    def unrescue(self, context: Any, instance: Any) -> None:
        """Go back to the server's own disks, and delete those it was rescued with."""
        super().unrescue(context, instance)
        for name, fisk_id in daemon.disks(instance.uuid).items():
            if name.endswith(".rescue"):
                daemon.detach(fisk_id, instance.uuid, force=True)
                paths.unlink(paths.path_of(f"{instance.uuid}/{name}"))
                daemon.delete(fisk_id)

    @staticmethod
    def _get_disk_config_image_type() -> str:
        """Config drives are Fisks, too."""
        return registration.IMAGES_TYPE

    def _create_configdrive(
        self, context: Any, instance: Any, injection_info: Any, rescue: bool = False
    ) -> None:
        """Make the config drive, and leave no file of it."""
        super()._create_configdrive(context, instance, injection_info, rescue)
        name = "disk.config.rescue" if rescue else "disk.config"
        local = os.path.join(libvirt_driver.libvirt_utils.get_instance_path(instance), name)
        if os.path.exists(local):
            os.unlink(local)

    # Capacity

    @staticmethod
    def _get_local_gb_info() -> dict[str, int]:
        """Give the GiB of this host's share of the pool: all, free, used."""
        settings = daemon.CONF[registration.GROUP]
        pool, share = daemon.engine().pool(settings.fisk_pool), settings.fisk_capacity_share
        total, free = int(pool.total * share / _GIB), int(pool.free * share / _GIB)
        return {"total": total, "free": free, "used": total - free}

    def _get_instance_disk_info_from_config(
        self, guest_config: Any, block_device_info: Any
    ) -> list[dict[str, Any]]:
        """Leave out our disks: none of them is ever copied, or measured, as a file."""
        guest_config.devices = [each for each in guest_config.devices if not _is_ours(each)]
        found: list[dict[str, Any]] = super()._get_instance_disk_info_from_config(
            guest_config, block_device_info
        )
        return found


def _is_elsewhere(instance: Any) -> bool:
    """Whether a server is another host's: it was evacuated, or its migration to this one is reverted."""
    reverting = instance.task_state == task_states.RESIZE_REVERTING
    return bool(reverting or instance.host != daemon.CONF.host)


def _is_ours(device: Any) -> bool:
    return device.root_name == "disk" and paths.is_ours(device.source_path)


CALLED = (
    "_cleanup_remote_migration",
    "_is_booted_from_volume",
    "_requires_quiesce",
    "get_host_ip_addr",
    "get_info",
    "quiesce",
    "unquiesce",
)
"""Methods of Nova's driver that are called and not promised."""
signatures.check(signatures.of(libvirt_driver.LibvirtDriver, FiskLibvirtDriver, CALLED))

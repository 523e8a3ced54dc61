# SPDX-License-Identifier: Apache-2.0
"""The compute driver: ``compute_driver = fisk.FiskLibvirtDriver``."""

from typing import Any

from fisk_openstack.nova_imagebackend import registration

registration.prepare()

from nova.virt.libvirt import driver as libvirt_driver  # noqa: E402  # it must find our type of images

registration.register()

from fisk_openstack.labels import SERVER  # noqa: E402
from fisk_openstack.nova_imagebackend import daemon  # noqa: E402


class FiskLibvirtDriver(libvirt_driver.LibvirtDriver):  # type: ignore[misc]  # Nova carries no types
    """The libvirt driver with disks that are Fisks."""

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
        """Detach the server's disks here, and delete them if that is wanted: those that say it owns them."""
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
        engine = daemon.engine()
        disks = engine.list(attributes={SERVER: instance.uuid})
        for disk in disks:
            daemon.detach(disk.id)
        if destroy_disks and disks:
            engine.delete(*(disk.id for disk in disks))

    @staticmethod
    def _get_local_gb_info() -> dict[str, float]:
        """Give the GiB of the pool: all, free, used."""
        pool = daemon.engine().pool(daemon.CONF[registration.GROUP].fisk_pool)
        total, free = pool.total / (1 << 30), pool.free / (1 << 30)
        return {"total": int(total), "free": int(free), "used": int(total - free)}

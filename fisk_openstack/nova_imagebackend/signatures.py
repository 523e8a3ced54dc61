# SPDX-License-Identifier: Apache-2.0
"""What we know of Nova: the methods that are overridden or replaced, as they are in the releases we know.

Nova promises nothing about them.  One that has other parameters might be called in another way, at another
time, or not at all; so nova-compute does not start then, and says which release it is.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

RELEASES = {"34": "2026.2"}
"""Major versions of Nova that are known, and what OpenStack calls them."""

KNOWN = {
    "Backend.__init__": "self, use_cow",
    "Image.__init__": "self, path, source_type, driver_format, is_block_dev=, disk_info_mapping=",
    "Image.cache": "self, fetch_func, filename, size=, safe=, *args, **kwargs",
    "Image.cleanup_direct_snapshot": "self, location, also_destroy_volume=, ignore_errors=",
    "Image.clone": "self, context, image_id_or_uri",
    "Image.create_image": "self, prepare_template, base, size, safe=, *args, **kwargs",
    "Image.create_snap": "self, name",
    "Image.direct_snapshot": "self, context, snapshot_name, image_format, image_id, base_image_id",
    "Image.exists": "self",
    "Image.flatten": "self",
    "Image.get_disk_size": "self, name",
    "Image.get_model": "self, connection",
    "Image.import_file": "self, instance, local_file, remote_name",
    "Image.is_shared_block_storage": "",
    "Image.libvirt_info": "self, cache_mode, extra_specs, boot_order=, disk_unit=",
    "Image.remove_snap": "self, name, ignore_errors=",
    "Image.resize_image": "self, size",
    "Image.rollback_to_snap": "self, name",
    "Image.snapshot_extract": "self, target, out_format",
    "LibvirtBaseVolumeDriver.__init__": "self, host, is_block_dev",
    "LibvirtBaseVolumeDriver.connect_volume": "self, connection_info, instance",
    "LibvirtBaseVolumeDriver.disconnect_volume": "self, connection_info, instance, force=",
    "LibvirtBaseVolumeDriver.extend_volume": "self, connection_info, instance, requested_size",
    "LibvirtBaseVolumeDriver.get_config": "self, connection_info, disk_info",
    "LibvirtConfigGuestDisk.__init__": "self, **kwargs",
    "LibvirtConfigGuestDisk.format_dom": "self",
    "LibvirtDriver.__init__": "self, virtapi, read_only=",
    "LibvirtDriver._cleanup_remote_migration": "self, dest, inst_base, inst_base_resize, shared_storage=",
    "LibvirtDriver._create_configdrive": "self, context, instance, injection_info, rescue=",
    "LibvirtDriver._get_disk_config_image_type": "",
    "LibvirtDriver._get_instance_disk_info_from_config": "self, guest_config, block_device_info",
    "LibvirtDriver._get_local_gb_info": "",
    "LibvirtDriver._is_booted_from_volume": "block_device_info",
    "LibvirtDriver._is_path_shared_with": "self, dest, path",
    "LibvirtDriver._live_snapshot": (
        "self, context, instance, guest, disk_path, out_path, source_format, image_format, image_meta"
    ),
    "LibvirtDriver._requires_quiesce": "self, image_meta",
    "LibvirtDriver._should_disconnect_target": "self, context, instance, multiattach, vol_driver, volume_id",
    "LibvirtDriver.check_can_live_migrate_destination": (
        "self, context, instance, src_compute_info, dst_compute_info, block_migration=, disk_over_commit="
    ),
    "LibvirtDriver.check_can_live_migrate_source": (
        "self, context, instance, dest_check_data, block_device_info="
    ),
    "LibvirtDriver.cleanup": (
        "self, context, instance, network_info, block_device_info=, destroy_disks=, migrate_data=, "
        "destroy_vifs=, destroy_secrets="
    ),
    "LibvirtDriver.confirm_migration": "self, context, migration, instance, network_info",
    "LibvirtDriver.finish_migration": (
        "self, context, migration, instance, disk_info, network_info, image_meta, resize_instance, "
        "allocations, block_device_info=, power_on=, share_info="
    ),
    "LibvirtDriver.finish_revert_migration": (
        "self, context, instance, network_info, migration, block_device_info=, power_on=, share_info="
    ),
    "LibvirtDriver.get_host_ip_addr": "self",
    "LibvirtDriver.get_info": "self, instance, use_cache=",
    "LibvirtDriver.init_host": "self, host",
    "LibvirtDriver.instance_on_disk": "self, instance",
    "LibvirtDriver.migrate_disk_and_power_off": (
        "self, context, instance, dest, flavor, network_info, block_device_info=, timeout=, retry_interval="
    ),
    "LibvirtDriver.post_live_migration": "self, context, instance, block_device_info, migrate_data=",
    "LibvirtDriver.post_live_migration_at_destination": (
        "self, context, instance, network_info, block_migration=, block_device_info="
    ),
    "LibvirtDriver.pre_live_migration": (
        "self, context, instance, block_device_info, network_info, disk_info, migrate_data"
    ),
    "LibvirtDriver.quiesce": "self, context, instance, image_meta",
    "LibvirtDriver.rollback_live_migration_at_destination": (
        "self, context, instance, network_info, block_device_info, destroy_disks=, migrate_data="
    ),
    "LibvirtDriver.rollback_live_migration_at_source": "self, context, instance, migrate_data",
    "LibvirtDriver.snapshot": "self, context, instance, image_id, update_task_state",
    "LibvirtDriver.unquiesce": "self, context, instance, image_meta",
    "LibvirtDriver.unrescue": "self, context, instance",
    "find_disk": "guest",
    "get_disk_type_from_path": "path",
    "get_updated_guest_xml": (
        "instance, guest, migrate_data, get_volume_config, get_vif_config=, new_resources="
    ),
}
"""Parameters by method; ``=`` after those that have a default."""


class UnknownNova(ImportError):
    """This Nova is not the one we know.  (Of what a compute driver raises Nova handles an ImportError.)"""


def signature(method: Callable[..., Any]) -> str:
    """Give the parameters of a method as ``KNOWN`` has them."""
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return ", ".join(
        f"{stars.get(each.kind, '')}{each.name}{'' if each.default is each.empty else '='}"
        for each in inspect.signature(method).parameters.values()
    )


def of(stock: type, ours: type, called: Iterable[str] = ()) -> dict[str, Callable[..., Any]]:
    """Give the methods of a class of Nova that a class of ours has too, or calls, by our name of them."""
    own = [each for each in ours.__mro__ if each.__module__.startswith("fisk_openstack.")]
    names = {name for each in own for name, value in vars(each).items() if _is_method(value)}
    return {
        f"{stock.__name__}.{name}": getattr(stock, name)
        for name in sorted(names | set(called))
        if hasattr(stock, name) or name in called
    }


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, staticmethod)


def check(used: Mapping[str, Callable[..., Any]], known: Mapping[str, str] | None = None) -> None:
    """Raise UnknownNova if one of Nova's methods, by our name of it, is not as we know it."""
    known = KNOWN if known is None else known
    found = {name: signature(method) for name, method in used.items()}
    other = [name for name, shape in found.items() if known.get(name) != shape]
    if other:
        shown = "; ".join(f"{name}({found[name]}) for ({known.get(name, 'nothing')})" for name in other)
        releases = ", ".join(f"{major} ({name})" for major, name in RELEASES.items())
        raise UnknownNova(f"Nova {version('nova')} is not a release Fisk knows ({releases}): it has {shown}")

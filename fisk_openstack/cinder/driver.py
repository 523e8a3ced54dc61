# SPDX-License-Identifier: Apache-2.0
"""The volume driver: ``volume_driver = fisk_openstack.cinder.driver.FiskDriver``."""

from typing import Any

from cinder import interface

from fisk_core import __version__
from fisk_openstack.cinder.attaching import PROTOCOL, Attaching
from fisk_openstack.cinder.base import GIB
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.groups import Groups
from fisk_openstack.cinder.managing import Managing
from fisk_openstack.cinder.migrating import Migrating, location_of


@interface.volumedriver  # type: ignore[untyped-decorator]
class FiskDriver(Attaching, Groups, Managing, Migrating):
    """Volumes as Fisks of one pool."""

    VERSION = __version__
    SUPPORTS_ACTIVE_ACTIVE = True

    def _update_volume_stats(self) -> None:
        """Say what the pool holds."""
        with cinder_errors():
            pool = self.engine.pool(self.pool)
        name = self.configuration.safe_get("volume_backend_name") or "fisk"
        self._stats: dict[str, Any] = {
            "volume_backend_name": name,
            "vendor_name": "Fisk",
            "driver_version": self.VERSION,
            "storage_protocol": PROTOCOL,
            "location_info": location_of(pool),
            "total_capacity_gb": round(pool.total / GIB, 2),
            "free_capacity_gb": round(pool.free / GIB, 2),
            "reserved_percentage": self.configuration.safe_get("reserved_percentage"),
            "max_over_subscription_ratio": self.configuration.safe_get("max_over_subscription_ratio"),
            "thin_provisioning_support": True,
            "thick_provisioning_support": False,
            "multiattach": True,
            "consistent_group_snapshot_enabled": True,
            "online_extend_support": True,
            "QoS_support": True,
            "sparse_copy_volume": True,
            "clone_across_pools": False,
            "replication_enabled": False,
            "filter_function": self.get_filter_function(),
            "goodness_function": self.get_goodness_function(),
        }

# SPDX-License-Identifier: Apache-2.0
"""What a back end tells the scheduler: how full its pool is, and what it can do."""

import logging
from typing import Any

from cinder.volume import volume_utils

from fisk_core import __version__
from fisk_core.errors import FiskError
from fisk_core.model import Class, PoolInfo
from fisk_openstack.cinder.base import GIB, Base
from fisk_openstack.cinder.migrating import location_of
from fisk_openstack.cinder.qos import CLASS_SPEC

LOG = logging.getLogger(__name__)
VENDOR = "fisk"
_TOTAL, _FREE = "capabilities.total_capacity_gb", "capabilities.free_capacity_gb"
EMPTIER = f"({_TOTAL} > 0) ? 100 * {_FREE} / {_TOTAL} : 0"
CAN: dict[str, Any] = {
    "vendor_name": "Fisk",
    "driver_version": __version__,
    "thin_provisioning_support": True,
    "thick_provisioning_support": False,
    "multiattach": True,
    "consistent_group_snapshot_enabled": True,
    "online_extend_support": True,
    "QoS_support": True,
    "sparse_copy_volume": True,
    "clone_across_pools": True,
    "replication_enabled": False,
}


class Stats(Base):
    """Nothing here depends on how many volumes there are."""

    def _update_volume_stats(self) -> None:
        """Ask the pool; a daemon that does not answer makes the back end one that is down."""
        try:
            pool = self.engine.pool(self.pool)
        except FiskError as problem:
            LOG.warning("Pool %s cannot be used now: %s", self.pool, problem)
            self._stats: dict[str, Any] = (self._stats or {}) | {"backend_state": "down"}
            return
        self._stats = CAN | self._configured() | _fill(pool) | {"backend_state": "up"}

    def _configured(self) -> dict[str, Any]:
        """Give what the configuration says."""
        read = self.configuration.safe_get
        ratio = volume_utils.get_max_over_subscription_ratio(
            read("max_over_subscription_ratio"), supports_auto=True
        )
        return {
            "volume_backend_name": read("volume_backend_name") or VENDOR,
            "storage_protocol": self.protocol,
            "reserved_percentage": read("reserved_percentage"),
            "max_over_subscription_ratio": ratio,
            "filter_function": self.get_filter_function(),
            "goodness_function": self.get_goodness_function(),
        }

    def get_default_goodness_function(self) -> str:
        """Prefer the pool with the larger part free."""
        return EMPTIER

    def _init_vendor_properties(self) -> tuple[dict[str, Any], str]:
        """Give the extra specs of our own that a volume type can have."""
        properties: dict[str, Any] = {}
        self._set_property(
            properties,
            CLASS_SPEC,
            "Class",
            "What volumes are for: workers favour latency over throughput, and both over background.",
            "string",
            enum=[str(each) for each in Class],
        )
        return properties, VENDOR


def _fill(pool: PoolInfo) -> dict[str, Any]:
    """Give how much the medium of a pool holds, in GiB."""
    return {
        "location_info": location_of(pool),
        "total_capacity_gb": round(pool.total / GIB, 2),
        "free_capacity_gb": round(pool.free / GIB, 2),
    }

# SPDX-License-Identifier: Apache-2.0
"""What a volume type asks of a Fisk: limits, from its QoS specs, and a class, from its extra specs.

Keys of limits are Cinder's own for the front end (``total_iops_sec``, ``read_bytes_sec_max``,
``write_iops_sec_per_gb`` …); a type whose consumer is ``back-end`` or ``both`` has the worker keep them.
"""

from collections.abc import Mapping
from typing import Any

from cinder.volume import qos_specs

_KEYS = {
    f"{direction}_{unit}_sec": f"qos.{direction}_{unit}"
    for direction in ("total", "read", "write")
    for unit in ("iops", "bytes")
}
LIMITS = [f"{attribute}{what}" for attribute in _KEYS.values() for what in ("", "_burst")]
CLASS = "class"
CLASS_SPEC = "fisk:class"
"""Extra spec of a volume type: what its volumes are for, one of ``fisk_core.model.Class``."""


def without() -> dict[str, str | None]:
    """Give the changes of attributes after which nothing is asked of a Fisk."""
    return dict.fromkeys((*LIMITS, CLASS))


def wishes_of(volume: Any, volume_type: Any = None, size: int | None = None) -> dict[str, str]:
    """Give the attributes that a volume's type asks for.

    ``volume_type`` and ``size`` (GiB) are the volume's own unless given.
    """
    kind = volume_type or volume.volume_type
    if not kind:
        return {}
    wanted = (kind.extra_specs or {}).get(CLASS_SPEC)
    return limits_of(kind, volume.size if size is None else size) | ({CLASS: wanted} if wanted else {})


def limits_of(volume_type: Any, size: int) -> dict[str, str]:
    """Give the attributes of the limits a type asks the back end for, for a volume of ``size`` GiB."""
    if not volume_type.qos_specs_id:
        return {}
    specs = qos_specs.get_qos_specs(_context(), volume_type.qos_specs_id)
    if specs["consumer"] == "front-end":
        return {}
    return scaled(specs["specs"], size)


def scaled(specs: Mapping[str, str], size: int) -> dict[str, str]:
    """Give our attributes for Cinder's keys; ``size`` in GiB, for limits that grow with it."""
    found: dict[str, str] = {}
    for key, attribute in _KEYS.items():
        rate = int(specs.get(key, 0))
        grown = int(specs.get(f"{key}_per_gb", 0)) * size
        rate = max(rate, grown, int(specs.get(f"{key}_per_gb_min", 0)) if grown else 0)
        if rate:
            found[attribute] = str(rate)
            burst = int(specs.get(f"{key}_max", 0))
            if burst:
                found[f"{attribute}_burst"] = str(burst)
    return found


def _context() -> Any:
    from cinder import context  # it needs a configured service, which importing this module must not

    return context.get_admin_context()

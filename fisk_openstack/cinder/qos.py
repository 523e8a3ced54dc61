# SPDX-License-Identifier: Apache-2.0
"""What a volume type asks of a Fisk: limits, from its QoS specs, and a class, from its extra specs.

Keys of limits are Cinder's own for the front end (``total_iops_sec``, ``read_bytes_sec_max``,
``write_iops_sec_per_gb`` …); a type whose consumer is ``back-end`` or ``both`` has the worker keep them.
"""

from collections.abc import Mapping
from typing import Any

from cinder import exception
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
    """Give our attributes for Cinder's keys; ``size`` in GiB, for limits that grow with it.

    Means what Cinder itself makes of them for the front end: ``_max`` is the burst of a fixed rate, and the
    most that one which grows (``_per_gb``, from ``_per_gb_min`` up) comes to.  Raises InvalidInput.
    """
    found: dict[str, str] = {}
    for key, attribute in _KEYS.items():
        most = _number(specs, f"{key}_max")
        if f"{key}_per_gb" in specs:
            grown = max(_number(specs, f"{key}_per_gb") * size, _number(specs, f"{key}_per_gb_min"))
            rate, burst = min(grown, most or grown), 0
        else:
            rate, burst = _number(specs, key), most
        if rate:
            found[attribute] = str(rate)
            if burst:
                found[f"{attribute}_burst"] = str(burst)
    return found


def _number(specs: Mapping[str, str], key: str) -> int:
    try:
        return int(specs.get(key, 0))
    except ValueError:
        raise exception.InvalidInput(reason=f"{key} = {specs[key]} is not a number") from None


def _context() -> Any:
    from cinder import context  # it needs a configured service, which importing this module must not

    return context.get_admin_context()

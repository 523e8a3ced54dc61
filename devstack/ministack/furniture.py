# SPDX-License-Identifier: Apache-2.0
"""What a person expects to find in a cloud: flavors, a volume type, a file with the pass word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from openstack.connection import Connection
from openstack.exceptions import SDKException

from devstack.ministack import image, tables
from devstack.ministack.errors import MinistackError
from devstack.ministack.identity import connect
from devstack.ministack.place import Place

if TYPE_CHECKING:
    from devstack.ministack.stack import Stack

FLAVORS = {"m1.tiny": (128, 1, 1, 0, 0), "m1.small": (192, 1, 2, 0, 0), "m1.full": (128, 1, 1, 1, 64)}
"""name → MiB of memory, processors, GiB of root disk, GiB of ephemeral disk, MiB of swap"""
_NOVA, _CINDER = ("conductor", "scheduler"), ("volume", "scheduler", "backup")
_WAIT = 90
"""seconds"""


def arrange(stack: Stack) -> None:
    """Put everything there that is missing, and wait until volumes and servers can be made."""
    place = stack.place
    cloud = connect(place)
    write_rc(place)
    have = {flavor.name for flavor in cloud.compute.flavors()}
    for number, (name, shape) in enumerate(FLAVORS.items(), 1):
        if name not in have:
            sizes = dict(zip(("ram", "vcpus", "disk", "ephemeral", "swap"), shape, strict=True))
            cloud.compute.create_flavor(id=str(number), name=name, **sizes)
    project = cloud.current_project_id
    cloud.compute.update_quota_set(project, **dict.fromkeys(("instances", "cores", "ram"), -1))
    cloud.block_storage.update_quota_set(project, **dict.fromkeys(("volumes", "snapshots", "gigabytes"), -1))
    kind = stack.backend.volume_type
    shared = {"volume_backend_name": kind, "multiattach": "<is> True"}
    for name, specs in ((kind, {"volume_backend_name": kind}), ("multiattach", shared)):
        if not cloud.block_storage.find_type(name):
            cloud.block_storage.create_type(name=name, extra_specs=specs)
    give_image(place, cloud)
    _wait(
        stack, cloud, [f"nova-{one}" for one in _NOVA] + [f"nova-compute{one.suffix}" for one in stack.hosts]
    )
    _find_hosts(stack, cloud)
    _wait(stack, cloud, [f"cinder-{one}" for one in _CINDER])


def give_image(place: Place, cloud: Connection, name: str = image.NAME, kind: str = "qcow2") -> None:
    """Upload the image there is to boot servers of; raises MinistackError."""
    if cloud.image.find_image(name):
        return
    qcow2, raw = image.build(place.images)
    try:
        cloud.image.create_image(
            name,
            filename=str(raw if kind == "raw" else qcow2),
            disk_format=kind,
            container_format="bare",
            visibility="public",
        )
    except SDKException as problem:
        raise MinistackError(f"Glance takes no image: {problem}") from None


def _find_hosts(stack: Stack, cloud: Connection) -> None:
    """Have Nova's API know all compute hosts, which say what they are only after that they are there."""
    deadline = time.monotonic() + _WAIT
    while len([*cloud.compute.hypervisors()]) < len(stack.hosts):
        if time.monotonic() > deadline:
            raise MinistackError(f"Nova does not know all hosts; see {stack.place.log}")
        tables.find_hosts(stack.place)


def _wait(stack: Stack, cloud: Connection, missing: Sequence[str]) -> None:
    """Wait until the workers ``missing`` have said that they are there; raises MinistackError."""
    deadline = time.monotonic() + _WAIT
    while missing := _missing(stack, cloud, missing):
        ended = [name for name in missing if stack.daemons.get(name) is None]
        if ended or time.monotonic() > deadline:
            problem = f"ended: {', '.join(ended)}" if ended else f"not up: {', '.join(missing)}"
            raise MinistackError(f"{problem}; see {stack.place.log}")
        time.sleep(0.2)


def _missing(stack: Stack, cloud: Connection, wanted: Sequence[str]) -> list[str]:
    """Give those of the workers ``wanted`` that have not said that they are there."""
    suffixes = {host.name: host.suffix for host in stack.hosts}  # other services have other names of hosts
    found = set()
    for one in (*cloud.compute.services(), *cloud.block_storage.services()):
        name = f"{one.binary}{suffixes.get(one.host, '')}"
        if one.binary == "nova-compute":
            there = one.state == "up" or one.is_forced_down  # which is for who did that to end
            there = there and not _is_old(stack, name, one.updated_at)
        else:
            there = one.state == "up"
        if there:
            found.add(name)  # there may be dead ones beside it
    return [name for name in wanted if name not in found]


def _is_old(stack: Stack, name: str, said: str | None) -> bool:
    """Whether a worker said that it was there before it was started, and so is taken to be up still.

    It is asked of nova-compute alone, which takes the longest: a server that goes there meanwhile fails.
    """
    if said is None:  # not once, but it is new
        return False
    return datetime.fromisoformat(said).replace(tzinfo=UTC) < stack.daemons.since(name)


def rc(place: Place) -> dict[str, str]:
    """Give the variables the ``openstack`` command reads."""
    return {
        "OS_AUTH_URL": place.url("keystone", "/v3"),
        "OS_USERNAME": "admin",
        "OS_PASSWORD": place.secret,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
        "OS_REGION_NAME": "RegionOne",
        "OS_IDENTITY_API_VERSION": "3",
        # What is in use can be snapshotted from 3.66 on; before that the command asks for it in vain.
        "OS_VOLUME_API_VERSION": "3.70",
    }


def write_rc(place: Place) -> None:
    """Write ``openrc``, to be read by a shell before ``openstack``."""
    path = place.directory / "openrc"
    path.touch(mode=0o600)
    lines = [f"export {name}='{value}'" for name, value in rc(place).items()]
    path.write_text("\n".join([*lines, f'export PATH="{place.venv}/bin:$PATH"', ""]))

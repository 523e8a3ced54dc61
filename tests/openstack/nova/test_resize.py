# SPDX-License-Identifier: Apache-2.0
"""Servers that get another flavor, and get the one they had back."""

from typing import Any

from openstack.connection import Connection

from tests.openstack import cloud as clouds
from tests.openstack.nova.servers import GIB, SECONDS, Boot, Server

SECTOR = 512


def resized(server: Server, flavor: str) -> None:
    """Ask for another flavor and wait until that is to be confirmed or reverted."""
    kind = server.compute.find_flavor(flavor, ignore_missing=False)
    server.act(server.compute.resize_server, "VERIFY_RESIZE", flavor=kind.id)


def kept(server: Server) -> list[str]:
    return [name for name in server.disks() if "@" in name]


def test_a_resize_is_reverted_and_every_disk_is_as_it_was(boot: Boot) -> None:
    before, after = (
        boot.flavor(disk=1, ephemeral=1, swap=64),
        boot.flavor(disk=2, ephemeral=2, swap=128),
    )
    server = boot(before, config_drive=True)
    server.says(r"^tick 2$")
    sizes = {name: disk.size for name, disk in server.disks().items()}
    resized(server, after)
    server.says(r"^boot 2 of")
    assert server.disks()["disk"].size == 2 * GIB
    assert server.disks()["disk.swap"].size == 128 * clouds.MIB
    assert len(kept(server)) == len(sizes)
    server.act(server.compute.revert_server_resize)
    server.says(r"^boot 2 of")  # what it wrote after the resize is not there
    assert {name: disk.size for name, disk in server.disks().items()} == sizes
    server.remove()
    server.leaves_nothing()


def test_a_resize_is_confirmed(boot: Boot) -> None:
    server = boot()
    server.says(r"^tick 2$")
    resized(server, boot.flavor(disk=2))
    server.says(r"^boot 2 of")
    server.says(rf"^disk vda {2 * GIB // SECTOR}")
    server.act(server.compute.confirm_server_resize)
    assert {name: disk.size for name, disk in server.disks().items()} == {"disk": 2 * GIB}
    server.goes_on()
    server.remove()
    server.leaves_nothing()


def test_a_disk_is_not_made_smaller(boot: Boot) -> None:
    large, small = boot.flavor(ephemeral=2), boot.flavor(ephemeral=1)
    server = boot(large)
    server.says(r"^tick 1$")
    before = {name: disk.size for name, disk in server.disks().items()}
    kind = server.compute.find_flavor(small, ignore_missing=False)
    server.compute.resize_server(server.own, flavor=kind.id)
    server.wait()
    assert {name: disk.size for name, disk in server.disks().items()} == before
    server.goes_on()


def test_the_pool_is_counted_once(cloud: Connection, engine: Any, boot: Boot) -> None:
    pool = engine.pool("default")
    total = clouds.until(lambda: disks_of(cloud), "inventories", SECONDS)
    assert abs(total - pool.total / GIB) <= clouds.COMPUTES  # each host has its part, in whole GiB


def disks_of(cloud: Connection) -> int:
    """Give the GiB Placement has of the compute nodes' disks, 0 until all of them told of it."""
    placement = cloud.placement
    providers = [*placement.resource_providers()]
    found = [placement.get_resource_provider_inventory("DISK_GB", each.id) for each in providers]
    return sum(each["total"] for each in found) if len(found) == clouds.COMPUTES else 0

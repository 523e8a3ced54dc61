# SPDX-License-Identifier: Apache-2.0
"""nova-compute is killed in the middle: what it made is found by its labels, and goes with the server."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack import cloud as clouds
from tests.openstack.cloud import PLACE
from tests.openstack.nova.servers import GIB, SECONDS, Boot, compute_again, compute_service, killed

ENDS = ("ERROR", "VERIFY_RESIZE", "SHUTOFF")


@pytest.fixture
def killed_when() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Kills nova-compute as soon as something is true, and has it run again."""

    def kill(true: Callable[[], object]) -> None:
        clouds.until(true, "the moment", SECONDS)
        killed(compute_service())
        compute_again()

    yield kill
    compute_again()


def test_killed_while_a_server_is_spawned(boot: Boot, killed_when: Callable[..., None]) -> None:
    server = boot(wait=False)
    killed_when(server.disks)
    clouds.until(lambda: server.state().status in ("ERROR", "ACTIVE"), "an end", SECONDS)
    server.remove()
    server.leaves_nothing()


def test_killed_while_a_server_is_resized(boot: Boot, killed_when: Callable[..., None]) -> None:
    """Nova reverts it when it starts, goes on with it, or leaves it to an operator, by the step it was in."""
    server = boot()
    server.says(r"^tick 1$")
    kind = server.compute.find_flavor("m1.small", ignore_missing=False)
    server.compute.resize_server(server.own, flavor=kind.id)
    killed_when(lambda: any("@" in name for name in server.disks()))
    with suppress(TimeoutError):
        clouds.until(lambda: server.state().status in ENDS, "an end", SECONDS)
    if server.state().task_state == "resize_migrated":
        server.compute.reset_server_state(server.own, "active")
        server.act(server.compute.reboot_server, reboot_type="HARD")
        shutil.rmtree(PLACE / "data" / "nova" / "instances" / f"{server.own}_resize")  # as the manual says
    assert server.state().status in (*ENDS, "ACTIVE")
    if server.state().status == "SHUTOFF":
        server.wait("SHUTOFF")
        server.act(server.compute.start_server)
    grown = server.state().status == "VERIFY_RESIZE"
    assert server.disks()["disk"].size == (2 if grown else 1) * GIB
    if server.state().status != "ERROR":
        server.says(r"^boot 2 of")
    server.remove()
    server.leaves_nothing()


def test_killed_while_a_server_is_kept_as_an_image(
    boot: Boot, engine: RemoteEngine, killed_when: Callable[..., None]
) -> None:
    server = boot()
    server.says(r"^tick 1$")
    own = boot.cloud.compute.create_server_image(server.own, clouds.unique("kept"), wait=False).id
    boot.later(lambda: boot.cloud.image.delete_image(own))
    boot.later(lambda: drop(engine, own))
    killed_when(lambda: search(engine, Kind.IMAGE, own))
    server.wait()
    server.goes_on()
    fisk = clouds.fisk_of(engine, Kind.IMAGE, own)
    assert fisk.attributes[Kind.IMAGE] == own  # by which it is found, whatever became of the image
    server.remove()
    server.leaves_nothing()


def drop(engine: RemoteEngine, image: str) -> None:
    """Delete the Fisk of an image that Glance was never told of."""
    found = search(engine, Kind.IMAGE, image)
    if found is not None:
        engine.delete(found.id)

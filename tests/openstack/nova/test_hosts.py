# SPDX-License-Identifier: Apache-2.0
"""Servers that change their host: cold, with another size, or because theirs is dead.

Guests say what they find: how often they were booted, which marker is on a volume, and whether anything they
read back is not what they wrote.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from tests.openstack import cloud as clouds
from tests.openstack.nova.hosts import Host, forced_down, kill
from tests.openstack.nova.servers import GIB, SECONDS, Boot, Server
from tests.openstack.nova.test_resize import SECTOR, resized
from tests.openstack.nova.test_volumes import attach, detach

pytestmark = pytest.mark.skipif(
    clouds.COMPUTES < 2, reason="one compute host is up; 'ministack --computes 2' has two"
)


@pytest.fixture
def one() -> Host:
    return Host(1)


@pytest.fixture
def two(cloud: Connection) -> Iterator[Host]:
    """The second host, which may die: it is there again afterwards."""
    host = Host(2)
    yield host
    host.come_back(cloud)


def host_of(server: Server) -> str:
    return str(server.state().compute_host)


@pytest.fixture(params=["image", "volume"])
def start(request: pytest.FixtureRequest, boot: Boot, make: clouds.Maker) -> Callable[[Host], Server]:
    """Boots a server on a host: from an image, with every kind of disk, or from a volume."""

    def started(host: Host) -> Server:
        if request.param == "volume":
            server = boot.from_volume(make.volume(image_id=boot.image.id), host=host.name)
        else:
            flavor = boot.flavor(disk=1, ephemeral=1, swap=64)
            server = boot(flavor, config_drive=True, host=host.name)
        server.says(r"^tick 2$")
        assert host_of(server) == host.name
        return server

    return started


def moved(server: Server, host: Host) -> None:
    """Migrate a server to a host, where it waits to be confirmed or reverted."""
    server.act(server.compute.migrate_server, "VERIFY_RESIZE", host=host.name)
    is_at(server, host)


def is_at(server: Server, host: Host) -> None:
    """Fail unless a server runs on a host, and everything it has is attached there, and nowhere else."""
    assert host_of(server) == host.name
    assert server.own in host.guests()
    attached = server.attachments()
    assert {each.host for each in attached} == {host.name}
    assert {each.id for each in attached} == {each.id for each in host.attachments(server.own)}


def confirmed(server: Server, before: Host) -> None:
    """Confirm that a server moved: nothing is left where it was."""
    server.act(server.compute.confirm_server_resize)
    assert before.leavings(server.own) == []


def marker(engine: RemoteEngine, fisk: str) -> str:
    """Give what a guest wrote into a disk it found."""
    with engine.open_disk(fisk) as disk:
        return disk.read(8 * SECTOR, SECTOR).rstrip(b"\0\n").decode()


class Data:
    """A volume whose content goes wherever its server goes."""

    def __init__(self, server: Server, volume: Any, engine: RemoteEngine) -> None:
        self.server, self.volume, self.engine = server, volume, engine
        self.words = ""
        self.attach()

    def attach(self) -> None:
        """Attach it; the guest says what it wrote."""
        used = {each.group(1) for each in re.finditer(r"^disk (vd.) ", self.server.console(), re.MULTILINE)}
        attach(self.server, self.volume)
        self.disk = "vd" + chr(ord(max(used)[-1]) + 1)
        self.written()

    def written(self) -> None:
        """Note what the guest wrote last."""
        self.words = self.server.says(rf"^wrote {self.disk} .*").removeprefix(f"wrote {self.disk} ").strip()

    def is_kept(self) -> None:
        """Fail unless a guest that was booted found what the one before wrote."""
        self.server.says(rf"^disk {self.disk} \d+ marker {re.escape(self.words)}")
        self.written()

    def detach(self) -> None:
        """Detach it; it has what the guest wrote."""
        detach(self.server, self.volume)
        self.server.says(rf"^gone {self.disk}")
        fisk = clouds.fisk_of(self.engine, Kind.VOLUME, self.volume.id)
        assert marker(self.engine, fisk.id) == self.words

    def again(self) -> None:
        """Detach it and attach it."""
        self.detach()
        gone = rf"^gone {self.disk}"
        attach(self.server, self.volume)
        self.server.says(rf"{gone}[\s\S]*^wrote {self.disk} .*")
        self.written()


def test_a_server_migrates_and_back(
    start: Callable[[Host], Server], one: Host, two: Host, make: clouds.Maker, engine: RemoteEngine
) -> None:
    server = start(one)
    data = Data(server, make.volume(), engine)
    moved(server, two)
    server.says(r"^boot 2 of")
    data.is_kept()
    confirmed(server, one)
    data.again()
    moved(server, one)
    server.says(r"^boot 3 of")
    data.is_kept()
    server.act(server.compute.revert_server_resize)
    is_at(server, two)
    assert one.leavings(server.own) == []
    # Disks of a server are given back what they held, volumes are not touched.
    server.says(rf"^boot {3 if server.disks() else 4} of")
    data.is_kept()
    moved(server, one)
    server.says(rf"^boot {4 if server.disks() else 5} of")
    data.is_kept()
    confirmed(server, two)
    data.detach()
    server.remove()
    server.leaves_nothing()


def moved_running(server: Server, host: Host, before: Host) -> None:
    """Move a server while its guest runs: that goes on, and writes."""
    ticks = server.ticks()
    server.compute.live_migrate_server(server.own, host=host.name, block_migration="auto")
    clouds.until(lambda: host_of(server) == host.name, f"{server.own} on {host.name}", SECONDS)
    server.wait()
    is_at(server, host)
    clouds.until(lambda: server.ticks() > ticks, "the guest goes on", SECONDS)
    server.goes_on()
    assert "boot" not in server.console()  # a new one, of what the guest says there
    assert before.leavings(server.own) == []


def test_a_server_moves_while_it_runs_and_back(
    start: Callable[[Host], Server], one: Host, two: Host, make: clouds.Maker, engine: RemoteEngine
) -> None:
    server = start(one)
    data = Data(server, make.volume(), engine)
    moved_running(server, two, one)
    moved_running(server, one, two)
    data.detach()
    server.act(server.compute.reboot_server, reboot_type="HARD")
    server.says(r"^boot 2 of")
    server.remove()
    server.leaves_nothing()


def test_a_server_is_resized_to_another_host(
    boot: Boot, one: Host, two: Host, make: clouds.Maker, engine: RemoteEngine
) -> None:
    server = boot(boot.flavor(disk=1), host=one.name)
    server.says(r"^tick 2$")
    resized(server, boot.flavor(disk=2))
    is_at(server, two)
    server.says(rf"^disk vda {2 * GIB // SECTOR}")
    server.says(r"^boot 2 of")
    data = Data(server, make.volume(), engine)
    confirmed(server, one)
    resized(server, boot.flavor(disk=3))
    is_at(server, one)
    server.says(rf"^disk vda {3 * GIB // SECTOR}")
    server.says(r"^boot 3 of")
    data.is_kept()
    server.act(server.compute.revert_server_resize)
    is_at(server, two)
    server.says(rf"^disk vda {2 * GIB // SECTOR}")
    server.says(r"^boot 3 of")
    data.is_kept()
    data.detach()
    server.remove()
    server.leaves_nothing()
    assert one.leavings(server.own) == []


def test_a_volume_is_changed_while_another_host_has_it(
    boot: Boot, two: Host, make: clouds.Maker, engine: RemoteEngine
) -> None:
    server = boot(host=two.name)
    server.says(r"^tick 1$")
    data = Data(server, make.volume(), engine)
    snapshot = make.snapshot(data.volume)
    copies = [
        clouds.fisk_of(engine, Kind.SNAPSHOT, snapshot.id),
        clouds.fisk_of(engine, Kind.VOLUME, make.volume(source_volume_id=data.volume.id).id),
    ]
    for copy in copies:
        assert marker(engine, copy.id) == data.words
    server.cloud.block_storage.extend_volume(data.volume.id, 2)
    server.says(rf"^size {data.disk} {2 * GIB // SECTOR}")
    is_at(server, two)
    data.detach()
    server.goes_on()


@pytest.mark.parametrize("whole", [True, False], ids=["dead", "cut-off"])
def test_a_server_is_evacuated_and_what_comes_back_harms_nothing(
    start: Callable[[Host], Server],
    one: Host,
    two: Host,
    cloud: Connection,
    make: clouds.Maker,
    engine: RemoteEngine,
    whole: bool,
) -> None:
    """A host that is cut off goes on with its guest, which is to be kept from writing."""
    server = start(two)
    data = Data(server, make.volume(), engine)
    ticks = server.ticks()
    if whole:
        two.die()
    else:
        kill(two.process("nova-compute-2"))
    assert forced_down(cloud, two, True)
    server.compute.evacuate_server(server.own, host=one.name)
    clouds.until(lambda: host_of(server) == one.name, "evacuated", SECONDS)
    server.wait()
    is_at(server, one)
    assert int(server.says(r"^found \d+ ticks").split()[1]) >= ticks
    server.says(r"^boot 2 of")
    data.is_kept()
    if not whole:
        clouds.until(lambda: not two.workers(), "workers of the host that is cut off ended", SECONDS)
        assert server.own in two.guests()
    two.come_back(cloud)
    clouds.until(lambda: two.leavings(server.own) == [], "nothing left where it was", SECONDS)
    assert two.devices() == []
    is_at(server, one)
    server.goes_on()
    data.again()
    moved(server, two)
    server.says(r"^boot 3 of")
    data.is_kept()
    confirmed(server, one)
    data.detach()
    server.remove()
    server.leaves_nothing()

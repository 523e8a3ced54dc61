# SPDX-License-Identifier: Apache-2.0
"""What a server holds is kept as an image, rescued, made anew, and put on the shelf."""

import pytest

from demo.disk import ROOT_START
from devstack.ministack import image as tiny
from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from tests.openstack import cloud as clouds
from tests.openstack.nova.servers import GIB, PLACE, SECONDS, Boot, Server


def image_of(boot: Boot, server: Server) -> str:
    """Make an image of a server and give its id once it is active."""
    made = boot.cloud.compute.create_server_image(server.own, clouds.unique("kept"), wait=False)
    own = made.id
    boot.later(lambda: boot.cloud.image.delete_image(own))
    clouds.until(lambda: boot.cloud.image.get_image(own).status == "active", f"image {own}", SECONDS)
    server.wait(server.state().status)
    return str(own)


def test_a_snapshot_of_a_running_server_is_a_clone_that_boots(boot: Boot, engine: RemoteEngine) -> None:
    server = boot()
    server.says(r"^tick 2$")
    own = image_of(boot, server)
    server.goes_on()
    kept = boot.cloud.image.get_image(own)
    fisk = clouds.fisk_of(engine, Kind.IMAGE, own)
    assert kept.disk_format == "raw"
    assert fisk.size == GIB
    assert kept.locations[0]["url"] == f"fisk://{fisk.pool}/{fisk.id}"
    assert engine.usage(fisk.id).exclusive <= 8 * clouds.MIB
    server.remove()
    other = boot(image_id=own)
    assert int(other.says(r"^found \d+ ticks").split()[1]) >= 1
    other.says(r"^boot 2 of")


def test_a_snapshot_of_a_stopped_server(boot: Boot, engine: RemoteEngine) -> None:
    server = boot()
    server.says(r"^tick 1$")
    server.act(server.compute.stop_server, "SHUTOFF")
    own = image_of(boot, server)
    disk = server.disks()["disk"]
    same = clouds.digest_of_fisk(engine, disk.id)
    assert clouds.digest_of_fisk(engine, clouds.fisk_of(engine, Kind.IMAGE, own).id) == same
    server.act(server.compute.start_server)
    server.says(r"^boot 2 of")


def must_be_replayed(engine: RemoteEngine, ref: str) -> bool:
    """Whether a guest wrote to its file system when it was kept: EXT4_FEATURE_INCOMPAT_RECOVER is set."""
    with engine.open_disk(ref) as disk:
        super_block = bytes(disk.read(ROOT_START + 1024, 1024))
    assert super_block[0x38:0x3A] == b"\x53\xef"
    return bool(super_block[0x60] & 4)


def test_a_snapshot_of_a_guest_with_an_agent_is_quiet(
    boot: Boot, make: clouds.Maker, engine: RemoteEngine
) -> None:
    file, _ = tiny.build(PLACE.parent / "images")
    image = make.image(file, "qcow2")
    boot.cloud.image.update_image(image, hw_qemu_guest_agent="yes", os_require_quiesce="yes")
    for image_id, busy in ((None, True), (image.id, False)):
        server = boot(image_id=image_id) if image_id else boot()
        assert busy or server.says(r"^agent at ")
        server.says(r"^tick 1$")
        own = image_of(boot, server)
        assert must_be_replayed(engine, clouds.fisk_of(engine, Kind.IMAGE, own).id) is busy
        server.goes_on()
        server.remove()


def test_a_snapshot_that_must_be_quiet_fails_without_an_agent(boot: Boot, make: clouds.Maker) -> None:
    file, _ = tiny.build(PLACE.parent / "images")
    image = make.image(file, "qcow2")
    boot.cloud.image.update_image(image, os_require_quiesce="yes")
    server = boot(image_id=image.id)
    server.says(r"^tick 1$")
    made = boot.cloud.compute.create_server_image(server.own, clouds.unique("kept"), wait=False)
    clouds.until(lambda: clouds.gone(lambda: boot.cloud.image.get_image(made.id)), "no image", SECONDS)
    server.goes_on()


def test_every_disk_of_a_server_is_a_fisk(boot: Boot) -> None:
    flavor = boot.flavor(ephemeral=1, swap=64)
    server = boot(flavor, config_drive=True)
    found = {name: disk.size for name, disk in server.disks().items()}
    sizes = {"disk": GIB, "disk.local": GIB, "disk.swap": 64 * clouds.MIB, "disk.config": 64 * clouds.MIB}
    assert {name.replace("disk.eph0", "disk.local"): size for name, size in found.items()} == sizes
    server.says(rf"^config-drive \S+ {server.own} {server.state().name}")
    server.says(r"^boot 1 of")
    assert server.console().count("of others") >= 2  # the file system, and the swap space
    assert not list((PLACE / "data" / "nova" / "instances" / server.own).glob("disk*"))
    for kind, boots in (("HARD", 2), ("SOFT", 3)):
        server.act(server.compute.reboot_server, reboot_type=kind)
        server.says(rf"^boot {boots} of")
        server.says(rf"^config-drive \S+ {server.own}")
    server.remove()
    server.leaves_nothing()


def test_stopped_paused_suspended_and_started_again(boot: Boot) -> None:
    server = boot()
    server.says(r"^tick 1$")
    server.act(server.compute.pause_server, "PAUSED")
    server.act(server.compute.unpause_server)
    server.goes_on()
    server.act(server.compute.suspend_server, "SUSPENDED")
    server.act(server.compute.resume_server)
    server.goes_on()
    server.act(server.compute.stop_server, "SHUTOFF")
    server.act(server.compute.start_server)
    server.says(r"^boot 2 of")


@pytest.mark.parametrize("stable", [False, True])
def test_a_server_is_rescued(boot: Boot, make: clouds.Maker, stable: bool) -> None:
    server = boot(config_drive=True)
    server.says(r"^tick 1$")
    image = image_of(boot, server)
    if stable:
        boot.cloud.image.update_image(image, hw_rescue_device="disk", hw_rescue_bus="virtio")
    server.act(server.compute.rescue_server, "RESCUE", image_ref=image)
    server.says(r"^boot \d+ of")
    assert set(server.disks()) - {"disk.config.rescue"} == {"disk", "disk.config", "disk.rescue"}
    server.act(server.compute.unrescue_server)
    # The guest takes the first disk for its own, and that is the server's where devices are stable.
    server.says(rf"^boot {3 if stable else 2} of")
    assert set(server.disks()) == {"disk", "disk.config"}
    assert len(server.attachments()) == 2
    server.remove()
    server.leaves_nothing()


def test_a_server_is_built_again(boot: Boot) -> None:
    server = boot()
    server.says(r"^tick 1$")
    before = server.disks()["disk"]
    server.compute.rebuild_server(server.own, image=boot.image.id)
    server.wait()
    server.says(r"^boot 1 of")
    assert server.disks()["disk"].created_at > before.created_at


def test_a_server_is_shelved_and_comes_back(boot: Boot, engine: RemoteEngine) -> None:
    server = boot()
    server.says(r"^tick 2$")
    server.compute.shelve_server(server.own)
    server.wait("SHELVED_OFFLOADED")
    assert server.disks() == {}
    assert server.attachments() == []
    server.act(server.compute.unshelve_server)
    assert int(server.says(r"^found \d+ ticks").split()[1]) >= 1
    server.says(r"^boot 2 of")

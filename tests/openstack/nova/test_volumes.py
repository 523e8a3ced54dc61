# SPDX-License-Identifier: Apache-2.0
"""Volumes in guests: booted from, attached, grown, swapped, shared and detached."""

from typing import Any

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from fisk_openstack.things import find_thing
from tests.openstack import cloud as clouds
from tests.openstack.nova.servers import GIB, SECONDS, Boot, Server, killed

SECTOR = 512


def attach(server: Server, volume: Any, **options: Any) -> None:
    server.compute.create_volume_attachment(server.own, volume_id=volume.id, **options)
    clouds.until(lambda: status(server, volume) == "in-use", f"{volume.id} attached", SECONDS)


def detach(server: Server, volume: Any) -> None:
    server.compute.delete_volume_attachment(server.own, volume.id)
    clouds.until(lambda: status(server, volume) == "available", f"{volume.id} detached", SECONDS)


def status(server: Server, volume: Any) -> str:
    return str(server.cloud.block_storage.get_volume(volume.id).status)


def test_a_server_boots_from_a_volume(boot: Boot, make: clouds.Maker, engine: RemoteEngine) -> None:
    volume = make.volume(image_id=boot.image.id)
    server = boot.from_volume(volume)
    server.says(r"^boot 1 of")
    assert server.disks() == {}
    (attachment,) = server.attachments()
    assert attachment.fisk_id == clouds.fisk_of(engine, Kind.VOLUME, volume.id).id
    server.act(server.compute.reboot_server, reboot_type="HARD")
    server.says(r"^boot 2 of")
    server.remove()
    server.leaves_nothing()
    clouds.until(lambda: status(server, volume) == "available", "volume detached")


def test_a_volume_is_attached_grown_and_detached_while_the_guest_runs(
    boot: Boot, make: clouds.Maker, engine: RemoteEngine
) -> None:
    volume, server = make.volume(), boot()
    server.says(r"^tick 1$")
    attach(server, volume)
    server.says(rf"^disk vdb {GIB // SECTOR} marker none")
    wrote = server.says(r"^wrote vdb .*").removeprefix("wrote vdb ").strip()
    fisk = clouds.fisk_of(engine, Kind.VOLUME, volume.id)
    worker = next(int(each["pid"]) for each in engine.workers() if each["fisk_id"] == fisk.id)
    killed(worker)
    server.cloud.block_storage.extend_volume(volume.id, 2)
    server.says(rf"^size vdb {2 * GIB // SECTOR}")
    detach(server, volume)
    server.says(r"^gone vdb")
    assert [each.fisk_id for each in server.attachments()] == [server.disks()["disk"].id]
    with engine.open_disk(fisk.id) as disk:
        assert disk.read(8 * SECTOR, SECTOR).rstrip(b"\0\n").decode() == wrote


def test_a_guest_keeps_its_volume_while_that_moves_elsewhere(
    boot: Boot, make: clouds.Maker, engine: RemoteEngine
) -> None:
    pools = [each.name for each in make.block.backend_pools()]
    if len(pools) < 2:
        pytest.skip("there is one pool of volumes only")
    anywhere = make.type(backend=None)  # the default type is of one pool
    volume, server = make.volume(volume_type=anywhere.name), boot()
    server.says(r"^tick 1$")
    attach(server, volume)
    wrote = server.says(r"^wrote vdb .*").removeprefix("wrote vdb ").strip()
    before = make.block.get_volume(volume.id).host
    other = next(each for each in pools if each != before)
    make.block.migrate_volume(volume.id, host=other, force_host_copy=True)
    clouds.until(lambda: make.block.get_volume(volume.id).host == other, "moved", SECONDS)
    server.goes_on()
    assert "gone vdb" not in server.console()
    with engine.open_disk(find_thing(engine, volume.id, None).id) as disk:
        assert disk.read(8 * SECTOR, SECTOR).rstrip(b"\0\n").decode() == wrote


def test_two_servers_share_a_volume(boot: Boot, make: clouds.Maker, engine: RemoteEngine) -> None:
    kind = make.block.create_type(name=clouds.unique("shared"), extra_specs={"multiattach": "<is> True"})
    make.later(lambda: make.block.delete_type(kind))
    volume = make.volume(volume_type=kind.name)
    one, two = boot(), boot()
    for server in (one, two):
        server.says(r"^tick 1$")
        server.compute.create_volume_attachment(server.own, volume_id=volume.id)
        server.says(r"^disk vdb")
    fisk = clouds.fisk_of(engine, Kind.VOLUME, volume.id).id
    assert sorted(each.consumer for each in engine.attachments(fisk=fisk)) == sorted([one.own, two.own])
    one.compute.delete_volume_attachment(one.own, volume.id)
    one.says(r"^gone vdb")
    clouds.until(lambda: len(engine.attachments(fisk=fisk)) == 1, "one attachment left", SECONDS)
    two.goes_on()
    two.compute.delete_volume_attachment(two.own, volume.id)
    clouds.until(lambda: not engine.attachments(fisk=fisk), "no attachment left", SECONDS)
    clouds.until(lambda: status(two, volume) == "available", "detached", SECONDS)

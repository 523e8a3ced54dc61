# SPDX-License-Identifier: Apache-2.0
"""A server is booted of a clone of its image, writes its disk, and leaves nothing when it is deleted."""

from pathlib import Path

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import NAME, Kind
from tests.openstack import cloud as clouds
from tests.openstack.nova.servers import GIB, PLACE, Boot, killed


def test_a_server_is_a_clone_of_its_image_and_leaves_nothing(boot: Boot, engine: RemoteEngine) -> None:
    assert boot.image.disk_format == "qcow2"
    image = clouds.fisk_of(engine, Kind.IMAGE, boot.image.id)
    server = boot()
    (name, disk), *others = server.disks().items()
    assert (name, others) == ("disk", [])
    assert disk.size == GIB
    assert disk.attributes[NAME] == server.state().name
    assert disk.parent_id is not None
    assert engine.usage(disk.id).referenced >= engine.usage(image.id).referenced
    server.says(r"^boot 1 of")
    server.goes_on()
    assert len(server.attachments()) == 1
    assert not list((PLACE / "data" / "nova" / "instances").glob("*/disk*"))
    server.remove()
    server.leaves_nothing()


@pytest.mark.parametrize("form", ["raw", "vmdk"])
def test_whatever_the_format_nothing_is_downloaded(
    boot: Boot, make: clouds.Maker, tmp_path: Path, form: str
) -> None:
    source = clouds.raw_file(tmp_path / "disk.raw", 8 * clouds.MIB)
    file = source if form == "raw" else clouds.converted(source, form)
    image = make.image(file, form)
    server = boot(image_id=image.id)
    assert server.disks()["disk"].size == GIB
    base = PLACE / "data" / "nova" / "instances" / "_base"
    assert not base.exists() or not list(base.iterdir())


def test_a_guest_goes_on_when_its_worker_was_killed(boot: Boot) -> None:
    server = boot()
    server.says(r"^boot 1 of")
    server.goes_on()
    before = server.worker()
    killed(before)
    server.goes_on()
    assert server.worker() != before


def test_an_image_larger_than_the_flavor_is_refused_and_leaves_nothing(
    boot: Boot, make: clouds.Maker, tmp_path: Path
) -> None:
    path = tmp_path / "large.raw"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(2 * GIB)
    server = boot(image_id=make.image(clouds.converted(path, "qcow2"), "qcow2").id, wait=False)
    server.wait("ERROR")
    assert server.disks() == {}
    server.remove()
    server.leaves_nothing()

# SPDX-License-Identifier: Apache-2.0
"""Volumes and snapshots: made, grown, deleted in any order; made of images, and images of them."""

import subprocess
from pathlib import Path

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cloud import (
    GIB,
    MIB,
    Maker,
    digest_of_file,
    digest_of_fisk,
    fisk_of,
    until,
)


def write(engine: RemoteEngine, volume: str, offset: int, data: bytes) -> None:
    with engine.open_disk(fisk_of(engine, Kind.VOLUME, volume).id, writable=True) as disk:
        disk.write(offset, data)


def read(engine: RemoteEngine, kind: Kind, own: str, offset: int, length: int) -> bytes:
    with engine.open_disk(fisk_of(engine, kind, own).id) as disk:
        return disk.read(offset, length)


def test_volume_is_a_fisk_with_its_names(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume()
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    assert fisk.size == GIB
    assert fisk.attributes["openstack.name"] == volume.name
    make.remove_volume(volume.id)
    assert search(engine, Kind.VOLUME, volume.id) is None


def test_extend(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume()
    make.block.extend_volume(volume, 3)
    assert make.settled(volume).size == 3
    assert fisk_of(engine, Kind.VOLUME, volume.id).size == 3 * GIB


def test_everything_deleted_in_the_wrong_order(make: Maker, engine: RemoteEngine) -> None:
    data = b"first" * 1000
    volume = make.volume()
    write(engine, volume.id, 5 * MIB, data)
    snapshot = make.snapshot(volume)
    write(engine, volume.id, 5 * MIB, b"later" * 1000)
    of_snapshot = make.volume(2, snapshot_id=snapshot.id)
    clone = make.volume(source_volume_id=of_snapshot.id, size=2)
    make.remove_snapshot(snapshot.id)
    make.remove_volume(volume.id)
    make.remove_volume(of_snapshot.id)
    assert read(engine, Kind.VOLUME, clone.id, 5 * MIB, len(data)) == data
    assert fisk_of(engine, Kind.VOLUME, clone.id).size == 2 * GIB


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_volume_of_an_image(
    make: Maker, engine: RemoteEngine, cloud: Connection, raw_image: Path, qcow2_image: Path, disk_format: str
) -> None:
    image = make.image(raw_image if disk_format == "raw" else qcow2_image, disk_format)
    volume = make.volume(image_id=image.id)
    cloud.image.delete_image(image.id)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    size = raw_image.stat().st_size
    assert digest_of_fisk(engine, fisk.id, size=size) == digest_of_file(raw_image)
    assert read(engine, Kind.VOLUME, volume.id, size, MIB) == bytes(MIB)
    assert engine.usage(fisk.id).provisioned == GIB
    assert volume.is_bootable


def test_image_of_a_volume(make: Maker, engine: RemoteEngine, cloud: Connection, raw_image: Path) -> None:
    source = make.image(raw_image)
    volume = make.volume(image_id=source.id)
    image = make.image_of(volume)
    made = fisk_of(engine, Kind.IMAGE, image.id)
    assert made.parent_id == fisk_of(engine, Kind.VOLUME, volume.id).id
    assert engine.usage(made.id).exclusive == 0
    assert image.size == GIB
    until(lambda: cloud.image.get_image(image.id).hash_value, "the hash of the image", 120)
    image = cloud.image.get_image(image.id)
    assert image.hash_algo == "sha512"
    assert image.hash_value == digest_of_file(raw_image, "sha512", GIB)
    make.remove_volume(volume.id)
    again = make.volume(image_id=image.id)
    assert digest_of_fisk(
        engine, fisk_of(engine, Kind.VOLUME, again.id).id, size=raw_image.stat().st_size
    ) == digest_of_file(raw_image)


def test_image_in_another_format_of_a_volume(
    make: Maker, cloud: Connection, raw_image: Path, tmp_path: Path
) -> None:
    volume = make.volume(image_id=make.image(raw_image).id)
    image = make.image_of(volume, "qcow2")
    file = tmp_path / "got.qcow2"
    cloud.image.download_image(image, output=str(file))
    raw = tmp_path / "got.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw], check=True)
    assert digest_of_file(raw) == digest_of_file(raw_image, size=GIB)

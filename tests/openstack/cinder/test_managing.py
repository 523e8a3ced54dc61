# SPDX-License-Identifier: Apache-2.0
"""Fisks that become volumes and snapshots, and cease to be."""

from pathlib import Path
from typing import Any

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cloud import (
    GIB,
    MIB,
    Maker,
    digest_of_file,
    digest_of_fisk,
    fisk_of,
    gone,
    unique,
    until,
)

HOST = "ministack@fisk#fisk"


def manage(make: Maker, reference: dict[str, str], **options: Any) -> Any:
    made = make.block.manage_volume(
        host=HOST, ref=reference, name=unique("managed"), volume_type="fisk", **options
    )
    make.later(lambda: make.remove_volume(made.id))
    return make.settled(made)


def remove_fisk(engine: RemoteEngine, own: str) -> None:
    if any(each.id == own for each in engine.list()):
        engine.delete(own)


def listed(make: Maker, name: str) -> dict[str, Any]:
    """Give what the list of manageable volumes says of a Fisk."""
    path = f"/manageable_volumes/detail?host={HOST.replace('#', '%23')}&limit=1000"
    found = make.block.get(path, microversion="3.8").json()["manageable-volumes"]
    (entry,) = [each for each in found if each["reference"]["source-name"] == name]
    return dict(entry)


def test_fisk_becomes_a_volume_and_leaves(make: Maker, engine: RemoteEngine) -> None:
    name = unique("fisk")
    fisk = engine.create(name, GIB + 5 * MIB, attributes={"mine": "yes"})
    make.later(lambda: remove_fisk(engine, fisk.id))
    entry = listed(make, name)
    assert (entry["safe_to_manage"], entry["size"], entry["cinder_id"]) == (True, 2, None)
    volume = manage(make, {"source-name": name})
    assert volume.size == 2
    adopted = fisk_of(engine, Kind.VOLUME, volume.id)
    assert (adopted.id, adopted.size) == (fisk.id, 2 * GIB)
    assert adopted.attributes["mine"] == "yes"
    entry = listed(make, adopted.name)
    assert (entry["reason_not_safe"], entry["cinder_id"]) == ("already managed", volume.id)
    clone = make.volume(source_volume_id=volume.id, size=2)
    make.block.unmanage_volume(volume)
    until(lambda: gone(lambda: make.block.get_volume(volume.id)), "the volume unmanaged")
    assert dict(engine.get(fisk.id).attributes) == {"mine": "yes"}
    assert search(engine, Kind.VOLUME, volume.id) is None
    again = manage(make, {"source-name": f"volume-{volume.id}"})
    assert fisk_of(engine, Kind.VOLUME, again.id).id == fisk.id
    make.remove_volume(again.id)
    make.remove_volume(clone.id)
    assert fisk.id not in {each.id for each in engine.list()}


def test_image_becomes_a_volume_and_stays(make: Maker, engine: RemoteEngine, raw_image: Path) -> None:
    image = fisk_of(engine, Kind.IMAGE, make.image(raw_image).id)
    volume = manage(make, {"source-id": image.id})
    adopted = fisk_of(engine, Kind.VOLUME, volume.id)
    assert adopted.id != image.id
    assert adopted.size == GIB
    assert digest_of_fisk(engine, adopted.id, size=image.size) == digest_of_file(raw_image)
    assert engine.get(image.id) == image


@pytest.mark.parametrize("reference", [{"source-name": "no-such-fisk"}, {"source-colour": "red"}])
def test_reference_to_nothing(make: Maker, reference: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="is error"):
        manage(make, reference)


def test_volume_is_managed_once(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type="fisk")
    with pytest.raises(AssertionError, match="is error"):
        manage(make, {"source-id": fisk_of(engine, Kind.VOLUME, volume.id).id})
    assert fisk_of(engine, Kind.VOLUME, volume.id)


def manage_snapshot(make: Maker, volume: Any, reference: dict[str, str]) -> Any:
    made = make.block.manage_snapshot(volume_id=volume.id, ref=reference, name=unique("managed"))
    make.later(lambda: make.remove_snapshot(made.id))
    return make.settled(made)


def test_snapshot_leaves_and_comes_back(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type="fisk")
    snapshot = make.snapshot(volume)
    fisk = fisk_of(engine, Kind.SNAPSHOT, snapshot.id)
    make.block.unmanage_snapshot(snapshot)
    until(lambda: gone(lambda: make.block.get_snapshot(snapshot.id)), "the snapshot unmanaged")
    found = make.block.get(
        f"/manageable_snapshots/detail?host={HOST.replace('#', '%23')}&limit=1000", microversion="3.8"
    ).json()["manageable-snapshots"]
    (entry,) = [each for each in found if each["reference"]["source-name"] == fisk.name]
    assert entry["safe_to_manage"]
    assert entry["source_reference"] == {"source-name": fisk_of(engine, Kind.VOLUME, volume.id).name}
    again = manage_snapshot(make, volume, {"source-name": fisk.name})
    assert fisk_of(engine, Kind.SNAPSHOT, again.id).id == fisk.id


def test_any_fisk_becomes_a_snapshot(make: Maker, engine: RemoteEngine, raw_image: Path) -> None:
    image = fisk_of(engine, Kind.IMAGE, make.image(raw_image).id)
    volume = make.volume(volume_type="fisk")
    snapshot = manage_snapshot(make, volume, {"source-id": image.id})
    assert fisk_of(engine, Kind.SNAPSHOT, snapshot.id).id != image.id
    made = make.volume(snapshot_id=snapshot.id)
    fisk = fisk_of(engine, Kind.VOLUME, made.id)
    assert digest_of_fisk(engine, fisk.id, size=image.size) == digest_of_file(raw_image)

# SPDX-License-Identifier: Apache-2.0
"""Volumes that get another type, pool or owner."""

from typing import Any

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from fisk_openstack.things import find_thing, things
from tests.openstack.cloud import MIB, Maker, connect, fisk_of, next_second, unique, until

FIRST, SECOND = "ministack@fisk#fisk", "ministack@second#second"
POOLS = {FIRST: "default", SECOND: "second"}
MARK = b"here since before" * 100


@pytest.fixture
def volume(make: Maker, engine: RemoteEngine) -> Any:
    """A volume of the first pool with something in it."""
    return mark(engine, make.volume(volume_type=make.type().id))


@pytest.fixture
def free(make: Maker, engine: RemoteEngine) -> Any:
    """The same, in whichever pool."""
    return mark(engine, make.volume(volume_type=make.type(None).id))


def mark(engine: RemoteEngine, volume: Any) -> Any:
    with engine.open_disk(fisk_of(engine, Kind.VOLUME, volume.id).id, writable=True) as disk:
        disk.write(9 * MIB, MARK)
    return volume


def other(host: str) -> str:
    return FIRST if host == SECOND else SECOND


def marked(engine: RemoteEngine, ref: str) -> bool:
    with engine.open_disk(ref) as disk:
        return disk.read(9 * MIB, len(MARK)) == MARK


def migrated(make: Maker, volume: Any, host: str) -> Any:
    def there() -> Any:
        found = make.block.get_volume(volume.id)
        assert found.migration_status != "error", "see the log of cinder-volume"
        return found if found.host == host and found.status == "available" else None

    return until(there, f"volume {volume.id} at {host}", 120)


def test_other_type_of_the_same_back_end(make: Maker, engine: RemoteEngine, volume: Any) -> None:
    before = fisk_of(engine, Kind.VOLUME, volume.id)
    kind, plain = make.type(fisk__class="throughput"), make.type()
    make.later(lambda: make.remove_volume(volume.id))
    make.qos(kind, "back-end", total_iops_sec="500", read_bytes_sec="1000000")
    make.block.retype_volume(volume, kind.id)
    until(lambda: make.block.get_volume(volume.id).volume_type == kind.name, "the new type")
    after = fisk_of(engine, Kind.VOLUME, volume.id)
    assert (after.id, after.map_id) == (before.id, before.map_id)
    assert after.attributes["qos.total_iops"] == "500"
    assert after.attributes["qos.read_bytes"] == "1000000"
    assert after.attributes["class"] == "throughput"
    make.block.retype_volume(volume, plain.id)
    until(
        lambda: "class" not in fisk_of(engine, Kind.VOLUME, volume.id).attributes,
        "the old type's wishes gone",
    )
    assert not [key for key in fisk_of(engine, Kind.VOLUME, volume.id).attributes if key.startswith("qos.")]
    make.settled(volume)


def test_assisted_migration(make: Maker, engine: RemoteEngine, free: Any) -> None:
    before = fisk_of(engine, Kind.VOLUME, free.id)
    for host in (other(free.host), free.host):
        make.block.migrate_volume(free, host=host)
        migrated(make, free, host)
        after = fisk_of(engine, Kind.VOLUME, free.id)
        assert (after.id, after.pool) == (before.id, POOLS[host])
        assert marked(engine, after.id)
        snapshot = make.snapshot(free)
        clone = make.volume(snapshot_id=snapshot.id)
        assert fisk_of(engine, Kind.VOLUME, clone.id).pool == POOLS[host]
        make.remove_snapshot(snapshot.id)


def test_type_of_another_back_end(make: Maker, engine: RemoteEngine, volume: Any) -> None:
    kind = make.type("second")
    make.later(lambda: make.remove_volume(volume.id))
    make.block.retype_volume(volume, kind.id, migration_policy="on-demand")
    found = migrated(make, volume, SECOND)
    assert found.volume_type == kind.name
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    assert fisk.pool == "second"
    assert marked(engine, fisk.id)


def test_migration_by_copying(make: Maker, engine: RemoteEngine, free: Any) -> None:
    before, host = fisk_of(engine, Kind.VOLUME, free.id), other(free.host)
    make.block.migrate_volume(free, host=host, force_host_copy=True)
    migrated(make, free, host)
    until(lambda: before.id not in {each.id for each in engine.list()}, "what was copied is deleted")
    own = make.block.get(f"/volumes/{free.id}").json()["volume"]["os-vol-mig-status-attr:name_id"]
    fisk = fisk_of(engine, Kind.VOLUME, own)
    assert fisk.pool == POOLS[host]
    assert find_thing(engine, free.id, None).id == fisk.id
    assert [each.own for each in things([fisk], None)] == [free.id], "shown by the id people know"
    assert marked(engine, fisk.id)
    clone = make.volume(source_volume_id=free.id, size=1)
    assert marked(engine, fisk_of(engine, Kind.VOLUME, clone.id).id)
    make.remove_volume(free.id)
    assert fisk.id not in {each.id for each in engine.list()}


def test_image_of_another_pool(make: Maker, engine: RemoteEngine, volume: Any) -> None:
    image = make.image_of(volume)
    assert fisk_of(engine, Kind.IMAGE, image.id).pool == "default"
    made = make.volume(image_id=image.id, volume_type=make.type("second").id)
    fisk = fisk_of(engine, Kind.VOLUME, made.id)
    assert fisk.pool == "second"
    assert marked(engine, fisk.id)


def test_transfer(make: Maker, cloud: Connection, engine: RemoteEngine, volume: Any) -> None:
    snapshot = make.snapshot(volume)
    theirs = cloud.identity.create_project(name=unique("project"), domain_id="default")
    make.later(lambda: cloud.identity.delete_project(theirs.id))
    make.later(lambda: make.remove_volume(volume.id))
    make.later(lambda: make.remove_snapshot(snapshot.id))
    cloud.identity.assign_project_role_to_user(
        theirs, cloud.current_user_id, cloud.identity.find_role("admin")
    )
    transfer = make.block.create_transfer(volume_id=volume.id, name=unique("transfer"))
    with connect(project_name=theirs.name) as they:
        they.block_storage.accept_transfer(transfer.id, transfer.auth_key)
        until(
            lambda: they.block_storage.get_volume(volume.id).status == "available", "the volume transferred"
        )
    assert fisk_of(engine, Kind.VOLUME, volume.id).attributes["openstack.project"] == theirs.id
    assert fisk_of(engine, Kind.SNAPSHOT, snapshot.id).attributes["openstack.project"] == theirs.id


def test_revert(make: Maker, engine: RemoteEngine, volume: Any) -> None:
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    make.snapshot(volume)
    next_second()
    latest = make.snapshot(volume)
    with engine.open_disk(fisk.id, writable=True) as disk:
        disk.write(9 * MIB, bytes(len(MARK)))
    make.block.revert_volume_to_snapshot(volume, latest)
    make.settled(volume)
    assert marked(engine, fisk.id)
    make.remove_snapshot(latest.id)

# SPDX-License-Identifier: Apache-2.0
"""What a volume's type asks for, what a host is told of a volume, and the scheduler of a pool."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from tests.openstack.cloud import GIB, Maker, digest_of_file, digest_of_fisk, fisk_of, unique

CONNECTOR = {"host": "elsewhere", "initiator": "iqn.2026-01.test:1", "ip": "127.0.0.1", "os_type": "linux"}


def limits(engine: RemoteEngine, volume: Any) -> dict[str, str]:
    """Give the limits its worker keeps a volume to."""
    found = fisk_of(engine, Kind.VOLUME, volume.id).attributes
    return {key.removeprefix("qos."): value for key, value in found.items() if key.startswith("qos.")}


def told(make: Maker, volume: Any, connector: dict[str, str] = CONNECTOR) -> dict[str, Any]:
    """Give what a host is told that attaches a volume."""
    body = {"volume_uuid": volume.id, "instance_uuid": str(uuid4()), "connector": connector}
    answer = make.block.post("/attachments", json={"attachment": body}, microversion="3.27")
    assert answer.ok, answer.text
    made = answer.json()["attachment"]
    path = f"/attachments/{made['id']}"
    make.later(lambda: make.block.delete(path, microversion="3.27"))
    assert make.block.post(f"{path}/action", json={"os-complete": {}}, microversion="3.44").ok
    return dict(made["connection_info"])


def test_limits_the_worker_keeps(make: Maker, engine: RemoteEngine) -> None:
    kind = make.type()
    make.qos(
        kind,
        "back-end",
        total_iops_sec="100",
        total_iops_sec_max="300",
        read_bytes_sec_per_gb="1000",
        write_iops_sec_per_gb="10",
        write_iops_sec_per_gb_min="25",
        write_iops_sec_max="35",
    )
    volume = make.volume(volume_type=kind.id)
    fixed = {"total_iops": "100", "total_iops_burst": "300"}
    assert limits(engine, volume) == fixed | {"read_bytes": "1000", "write_iops": "25"}
    make.block.extend_volume(volume, 3)
    make.settled(volume)
    assert limits(engine, volume) == fixed | {"read_bytes": "3000", "write_iops": "30"}
    make.block.extend_volume(volume, 4)
    make.settled(volume)
    assert limits(engine, volume)["write_iops"] == "35"
    clone = make.volume(5, source_volume_id=volume.id)
    assert limits(engine, clone)["read_bytes"] == "5000"
    assert told(make, volume)["qos_specs"] is None


def test_limits_the_hypervisor_keeps(make: Maker, engine: RemoteEngine) -> None:
    kind = make.type()
    make.qos(kind, "front-end", total_iops_sec="100", read_bytes_sec_per_gb="1000")
    volume = make.volume(2, volume_type=kind.id)
    assert limits(engine, volume) == {}
    assert told(make, volume)["qos_specs"] == {"total_iops_sec": "100", "read_bytes_sec": 2000}


def test_limits_both_keep(make: Maker, engine: RemoteEngine) -> None:
    kind = make.type()
    make.qos(kind, "both", write_bytes_sec_per_gb="7000")
    volume = make.volume(2, volume_type=kind.id)
    assert limits(engine, volume) == {"write_bytes": "14000"}
    assert told(make, volume)["qos_specs"] == {"write_bytes_sec": 14000}


def test_class(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type=make.type(fisk__class="background").id)
    assert fisk_of(engine, Kind.VOLUME, volume.id).attributes["class"] == "background"


def test_host_is_told_which_fisk(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type=make.type().id)
    info = told(make, volume)
    assert info["driver_volume_type"] == "fisk"
    assert info["fisk_id"] == fisk_of(engine, Kind.VOLUME, volume.id).id
    assert info["discard"] is True
    assert (info["access_mode"], info["encrypted"]) == ("rw", False)
    assert engine.attachments(fisk=info["fisk_id"]) == []


def test_attached_several_times(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type=make.type(multiattach="<is> True").id)
    assert volume.is_multiattach
    first, second = told(make, volume), told(make, volume, CONNECTOR | {"host": "another"})
    assert first["fisk_id"] == second["fisk_id"]


def test_grows_while_attached(make: Maker, engine: RemoteEngine) -> None:
    volume = make.volume(volume_type=make.type().id)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    attachment = engine.attach(fisk.id, consumer="test")
    make.later(lambda: engine.detach(attachment.id))
    make.block.extend_volume(volume, 2)
    make.settled(volume)
    assert engine.get(fisk.id).size == 2 * GIB


def test_content_replaced_by_an_image(
    make: Maker, engine: RemoteEngine, qcow2_image: Path, raw_image: Path
) -> None:
    volume, image = make.volume(volume_type=make.type().id), make.image(qcow2_image, "qcow2")
    body = {"os-reimage": {"image_id": image.id, "reimage_reserved": False}}
    assert make.block.post(f"/volumes/{volume.id}/action", json=body, microversion="3.68").ok
    make.settled(volume)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    assert fisk.size == GIB
    assert digest_of_fisk(engine, fisk.id) == digest_of_file(raw_image, size=GIB)


def test_scheduler_is_told(cloud: Connection, engine: RemoteEngine) -> None:
    pools = {each.name: each.capabilities for each in cloud.block_storage.backend_pools()}
    found, pool = pools["ministack@fisk#fisk"], engine.pool("default")
    assert abs(found["total_capacity_gb"] - pool.total / GIB) < 1
    assert 0 < found["free_capacity_gb"] <= found["total_capacity_gb"]
    assert found["thin_provisioning_support"]
    assert found["multiattach"]
    assert found["QoS_support"]
    assert not found["replication_enabled"]
    assert found["goodness_function"]


def test_capabilities(cloud: Connection) -> None:
    found = cloud.block_storage.get_capabilities("ministack@fisk")
    assert found.vendor_name == "Fisk"
    assert found.storage_protocol == "fisk"
    assert found.properties["fisk:class"]["enum"] == ["latency", "throughput", "background", "scratch"]


def test_backup_while_attached(make: Maker, engine: RemoteEngine, cloud: Connection) -> None:
    volume = make.volume(volume_type=make.type().id)
    told(make, volume)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    with engine.open_disk(fisk.id, writable=True) as disk:
        disk.write(0, b"written by a guest")
    make.settled(volume, "in-use")
    backup = cloud.block_storage.create_backup(volume_id=volume.id, name=unique("backup"), force=True)
    make.later(lambda: cloud.block_storage.delete_backup(backup.id))
    make.settled(backup)
    assert make.settled(volume, "in-use")
    assert [each.name for each in engine.list(role="snapshot") if each.parent_id == fisk.id] == []

# SPDX-License-Identifier: Apache-2.0
"""A back end that makes iSCSI targets, used by an initiator that needs nothing of Fisk."""

import shutil
import subprocess
from typing import Any

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from tests.openstack.cloud import GIB, MIB, Maker, fisk_of, until

pytestmark = pytest.mark.skipif(
    not (shutil.which("iscsi-inq") and shutil.which("tgtd")), reason="libiscsi-bin and tgt are not installed"
)
HOST = {
    "host": "elsewhere",
    "initiator": "iqn.2024-01.org.example:one",
    "ip": "127.0.0.1",
    "platform": "x86_64",
}


def attach(make: Maker, volume: Any, **changes: str) -> Any:
    """Attach a volume to a host, as Nova does, and give the attachment."""
    made = make.block.create_attachment(volume.id, connector=HOST | changes)
    make.later(lambda: make.block.delete_attachment(made))
    make.block.complete_attachment(made)
    return made


def url(data: dict[str, Any], *, password: str | None = None) -> str:
    secret = f"{data['auth_username']}%{password or data['auth_password']}"
    return f"iscsi://{secret}@{data['target_portal']}/{data['target_iqn']}/{data['target_lun']}"


def ask(program: str, where: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, where], capture_output=True, text=True, timeout=60, check=False)


def test_volume_is_a_target_while_it_is_attached(make: Maker, engine: RemoteEngine, volume_type: Any) -> None:
    volume = make.volume(volume_type=volume_type.name)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    with engine.open_disk(fisk.id, writable=True) as disk:
        disk.write(3 * MIB, b"by NBD")
    attachment = attach(make, volume)
    data = attachment.connection_info
    assert data["driver_volume_type"] == "iscsi"
    assert data["auth_method"] == "CHAP"
    assert "fisk_id" not in data

    assert "Peripheral Device Type:DIRECT_ACCESS" in ask("iscsi-inq", url(data)).stdout
    size = ask("iscsi-readcapacity16", url(data)).stdout
    assert f"Total size:{GIB}" in size
    assert ask("iscsi-inq", url(data, password="x" * 16)).returncode != 0
    (there,) = engine.attachments(fisk=fisk.id)
    assert there.access == "iscsi"

    make.block.delete_attachment(attachment)
    make.settled(volume)
    assert engine.attachments(fisk=fisk.id) == []
    assert ask("iscsi-inq", url(data)).returncode != 0


def test_target_stays_for_the_others(make: Maker, engine: RemoteEngine, volume_type: Any) -> None:
    make.block.update_type_extra_specs(volume_type, multiattach="<is> True")
    volume = make.volume(volume_type=volume_type.name)
    first = attach(make, volume)
    second = attach(make, volume, host="third", initiator="iqn.2024-01.org.example:two")
    assert first.connection_info["target_iqn"] == second.connection_info["target_iqn"]
    make.block.delete_attachment(first)
    assert ask("iscsi-inq", url(second.connection_info)).returncode == 0
    make.block.delete_attachment(second)
    make.settled(volume)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    until(lambda: not engine.attachments(fisk=fisk.id), "the target gone")

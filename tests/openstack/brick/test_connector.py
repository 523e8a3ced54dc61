# SPDX-License-Identifier: Apache-2.0
"""Volumes connected by os-brick: file objects over NBD, block devices, and what happens at their end."""

import fcntl
import io
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from os_brick import exception
from os_brick.initiator import connector as brick

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack.brick.connector import FiskConnector
from tests.openstack.cloud import MIB

BLKGETSIZE64 = 0x80081272


def connector(**options: Any) -> FiskConnector:
    return brick.InitiatorConnector.factory("fisk", None, **options)


def properties(fisk: Fisk, **more: Any) -> dict[str, Any]:
    return {"fisk_id": fisk.id, "volume_id": fisk.id, "access_mode": "rw", **more}


def size_of(path: str) -> int:
    with open(path, "rb") as device:
        (size,) = struct.unpack("Q", fcntl.ioctl(device, BLKGETSIZE64, bytes(8)))
    return int(size)


def test_os_brick_knows_it() -> None:
    assert isinstance(connector(), FiskConnector)
    found = brick.get_connector_properties(None, "127.0.0.1", multipath=False, enforce_multipath=False)
    assert found["host"]


def test_file_object(engine: RemoteEngine, fisk: Fisk) -> None:
    ours = connector()
    device = ours.connect_volume(properties(fisk))
    handle = device["path"]
    assert not engine.attachments(fisk=fisk.id)  # until somebody wants a byte
    assert ours.check_valid_device(handle)
    assert engine.attachments(fisk=fisk.id)
    handle.seek(MIB + 3)
    assert handle.write(b"odd") == 3
    assert handle.tell() == MIB + 6
    handle.flush()
    assert handle.seek(-4, os.SEEK_END) == 64 * MIB - 4
    assert handle.read(100) == bytes(4)
    assert handle.read(1) == b""
    with pytest.raises(OSError, match="end of Fisk"):
        handle.write(b"x")
    with pytest.raises(io.UnsupportedOperation):
        handle.fileno()
    handle.seek(MIB)
    assert handle.read(8) == b"\0\0\0odd\0\0"
    ours.disconnect_volume(properties(fisk), device)
    assert not engine.attachments(fisk=fisk.id)
    ours.disconnect_volume(properties(fisk), device)
    with pytest.raises(ValueError, match="closed file"):
        handle.read(1)


def test_read_only(fisk: Fisk) -> None:
    ours = connector()
    device = ours.connect_volume(properties(fisk, access_mode="ro"))
    assert not device["path"].writable()
    with pytest.raises(OSError, match="reading only"):
        device["path"].write(b"x")
    ours.disconnect_volume(properties(fisk), device)


def test_fisk_that_is_not_there() -> None:
    with pytest.raises(exception.BrickException, match="there is no Fisk"):
        connector().connect_volume({"fisk_id": "00000000-0000-4000-8000-000000000000"})


def test_who_wants_the_bytes_of_an_encrypted_volume_gets_a_file_object(fisk: Fisk) -> None:
    device = connector(expect_raw_disk=True).connect_volume(properties(fisk, encrypted=True))
    assert isinstance(device["path"], io.RawIOBase)


def test_block_device(engine: RemoteEngine, fisk: Fisk) -> None:
    ours = connector(do_local_attach=True)
    device = ours.connect_volume(properties(fisk))
    assert stat.S_ISBLK(os.stat(device["path"]).st_mode)
    assert ours.check_valid_device(device["path"])
    assert ours.get_volume_paths(properties(fisk)) == [device["path"]]
    assert device["path"] in ours.get_all_available_volumes()
    assert ours.connect_volume(properties(fisk)) == device  # it is connected already
    with open(device["path"], "r+b") as file:
        file.seek(MIB)
        file.write(b"through the kernel")
        file.flush()
        os.fsync(file.fileno())
    engine.resize(fisk.id, 80 * MIB)
    assert ours.extend_volume(properties(fisk)) == 80 * MIB
    assert size_of(device["path"]) == 80 * MIB
    ours.disconnect_volume(properties(fisk), device)
    assert not engine.attachments(fisk=fisk.id)
    ours.disconnect_volume(properties(fisk), device)
    assert ours.get_volume_paths(properties(fisk)) == []
    with engine.open_disk(fisk.id) as disk:
        assert disk.read(MIB, 18) == b"through the kernel"


def test_device_that_is_open_is_left_alone_unless_forced(fisk: Fisk) -> None:
    ours = connector(do_local_attach=True)
    device = ours.connect_volume(properties(fisk))
    with open(device["path"], "rb"):
        with pytest.raises(exception.BrickException, match="use"):
            ours.disconnect_volume(properties(fisk), device)
        ours.disconnect_volume(properties(fisk), device, force=True, ignore_errors=True)
    ours.disconnect_volume(properties(fisk), None)  # what is not connected is fine


@pytest.mark.skipif(not shutil.which("cryptsetup"), reason="cryptsetup is not installed")
def test_encrypted_volume_is_a_device_that_cryptsetup_can_format(fisk: Fisk) -> None:
    Path("/dev/disk/by-id").mkdir(parents=True, exist_ok=True)  # os-brick makes links there
    ours = connector()
    device = ours.connect_volume(properties(fisk, encrypted=True))
    link = Path(device["path"])
    assert link.is_symlink()  # which an encryptor lets lead to the device in clear
    assert link.is_block_device()
    subprocess.run(
        ["cryptsetup", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "-q", link, "-"],
        input=b"secret", check=True,
    )  # fmt: skip
    subprocess.run(["cryptsetup", "isLuks", link], check=True)
    ours.disconnect_volume(properties(fisk, encrypted=True), device)
    assert not link.is_symlink()

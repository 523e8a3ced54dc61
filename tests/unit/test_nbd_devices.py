# SPDX-License-Identifier: Apache-2.0
"""Devices of the kernel's NBD client: what it is told of them.  What it does with it: ``proof.kernelnbd``."""

import os
import subprocess
from pathlib import Path
from struct import pack

import pytest

from fisk_core.access import loops, nbd_devices, netlink
from fisk_core.access.nbd_devices import NbdDevice, Shape, change_message, connect_message
from fisk_core.dataplane import protocol as p
from fisk_core.errors import InUse, MissingTool, NotFound, PoolError

FLAGS = p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_FLUSH | p.TFLAG_SEND_FUA | p.TFLAG_SEND_TRIM | p.TFLAG_CAN_MULTI_CONN


def decoded(parts):
    return dict(netlink.attributes(b"".join(parts)))


def test_a_size_is_rounded_down_to_whole_blocks():
    assert Shape.of(10_000, 4096, FLAGS, read_only=False) == Shape(8192, 4096, FLAGS)
    assert Shape.of(10_000, 512, FLAGS, read_only=False).size == 9728


def test_a_read_only_device_is_not_told_to_flush_or_to_discard():
    flags = Shape.of(4096, 512, FLAGS, read_only=True).flags
    assert flags == p.TFLAG_HAS_FLAGS | p.TFLAG_READ_ONLY | p.TFLAG_CAN_MULTI_CONN


def test_what_makes_a_device():
    found = decoded(connect_message("fisk:/a", Shape(1 << 40, 4096, FLAGS), 17, 60.0))
    assert found == {
        2: pack("=Q", 1 << 40),
        3: pack("=Q", 4096),
        4: pack("=Q", 0),  # no limit: a slow worker's request is not made a second time
        5: pack("=Q", FLAGS),
        8: pack("=Q", 60),
        10: b"fisk:/a\0",
        7: pack("=HHHHI", 12, 0x8001, 8, 1, 17),
    }


def test_what_changes_a_device():
    found = decoded(change_message(3, "fisk:/a", 1 << 30))
    assert found == {1: pack("=I", 3), 10: b"fisk:/a\0", 2: pack("=Q", 1 << 30)}
    assert decoded(change_message(3, "fisk:/a", 1 << 30, 9))[7] == pack("=HHHHI", 12, 0x8001, 8, 1, 9)


def fake_sysfs(tmp_path, monkeypatch, **names):
    monkeypatch.setattr(nbd_devices, "_SYSFS", tmp_path)
    for device, name in names.items():
        (tmp_path / device).mkdir()
        if name:
            (tmp_path / device / "backend").write_text(f"{name}\n")


def test_devices_are_found_by_name(tmp_path, monkeypatch):
    fake_sysfs(tmp_path, monkeypatch, nbd0="other", nbd1=None, nbd12="mine", nbd9="mine")
    assert [device.index for device in NbdDevice.every("mine")] == [9, 12]
    assert NbdDevice.every("mine")[0].path.name == "nbd9"


def test_a_host_without_the_module(monkeypatch, tmp_path):
    monkeypatch.setattr(nbd_devices, "_MODULE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no modprobe" in nbd_devices.lacking()
    (tmp_path / "modprobe").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "modprobe").chmod(0o755)
    assert nbd_devices.lacking() == "this kernel has no module nbd"
    (tmp_path / "modprobe").write_text('#!/bin/sh\n[ "$1" = --dry-run ] || { echo no key >&2; exit 1; }\n')
    assert nbd_devices.lacking() is None
    with pytest.raises(PoolError, match="modprobe nbd: no key"):
        nbd_devices.load()
    monkeypatch.setattr(nbd_devices, "_FIRST_KERNEL", (1000, 0))
    with pytest.raises(MissingTool, match=r"5\.14"):
        nbd_devices.load()


def test_a_module_that_cannot_be_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(nbd_devices, "_MODULE", tmp_path)
    monkeypatch.setattr(nbd_devices, "FAMILY", "fisk-none")
    assert nbd_devices.lacking() == "this kernel knows no netlink family fisk-none"


def test_a_module_that_is_too_old(monkeypatch, tmp_path):
    monkeypatch.setattr(nbd_devices, "_MODULE", tmp_path)
    monkeypatch.setattr(nbd_devices, "Family", Old)
    assert "5.14" in nbd_devices.lacking()


class Old(netlink.Family):
    """As a kernel answers that cannot name its devices: any family will do."""

    def __init__(self, name):
        super().__init__("nlctrl")
        self.most_attributes = 9


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A loop device stands for one of the kernel's client: it is asked for the same."""
    if lacking := loops.lacking() or (os.geteuid() and "it takes root"):
        pytest.skip(str(lacking))
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    done = subprocess.run(
        ["losetup", "--find", "--show", tmp_path / "file"], capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    monkeypatch.setattr(NbdDevice, "path", path)
    # Long enough for those who only look at every loop device there is.
    monkeypatch.setattr(nbd_devices, "_BUSY_SECONDS", 0.5)
    yield NbdDevice(0, "mine")
    subprocess.run(["losetup", "--detach", path], check=True)


def test_a_device_that_is_open_is_not_claimed(device):
    os.close(device.claim())
    with device.path.open("rb"), pytest.raises(InUse, match="open in some process"):
        device.claim()
    os.close(device.claim())


def test_a_device_that_another_process_has_open_is_not_claimed(device):
    with (
        device.path.open("rb") as file,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]) as other,
    ):
        file.close()
        with pytest.raises(InUse):
            device.claim()
        other.communicate(b"")
    os.close(device.claim())


def test_a_device_that_somebody_has_for_himself_is_not_claimed(device):
    held = os.open(device.path, os.O_RDONLY | os.O_EXCL)
    with pytest.raises(InUse):
        device.claim()
    os.close(held)


def test_a_device_that_is_not_there_is_not_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(NbdDevice, "path", tmp_path / "none")
    with pytest.raises(NotFound, match="none"):
        NbdDevice(0, "mine").claim()

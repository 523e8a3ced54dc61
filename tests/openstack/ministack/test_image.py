# SPDX-License-Identifier: Apache-2.0
"""The image to boot servers of, in QEMU alone: what it says of disks and its config drive is true."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.guest import Guest
from demo.run import Processes, call
from devstack.ministack import image

UUID = "1c9ab921-df87-41ca-809e-7615f0ec8118"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image.build(tmp_path_factory.mktemp("image"))[1]


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as running:
        yield running


def config_drive(folder: Path) -> Path:
    content = folder / "content" / "openstack" / "latest"
    content.mkdir(parents=True)
    (content / "meta_data.json").write_text(json.dumps({"name": "one", "uuid": UUID}))
    drive = folder / "config.img"
    call(["truncate", "-s", "64M", drive])
    call(["mkfs.fat", "-n", "config-2", drive])
    call(["mcopy", "-s", "-i", drive, folder / "content" / "openstack", "::"])
    return drive


def test_reads_its_config_drive_verifies_its_disk_and_counts_boots(
    built: Path, processes: Processes, tmp_path: Path
) -> None:
    disk, drive = tmp_path / "disk.raw", config_drive(tmp_path)
    disk.write_bytes(built.read_bytes())
    call(["truncate", "-s", "1G", disk])
    for boot in (1, 2):
        guest = Guest(processes, str(disk), tmp_path, more=["-drive", f"file={drive},format=raw,if=virtio"])
        assert guest.wait_for_number("boot") == boot
        said = guest.console()
        assert f"config-drive vdb {UUID} one" in said
        assert "DAMAGED" not in said
        assert "verified /disk/scratch 256" in said
        assert "verified /dev/vda 64 at 1048512" in said
        assert f"marker {'none' if boot == 1 else f'ministack {UUID}'}" in said
        guest.wait_for_number("tick")
        guest.power_off()

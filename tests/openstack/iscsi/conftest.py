# SPDX-License-Identifier: Apache-2.0
"""A volume service of its own, whose back end makes iSCSI targets."""

import configparser
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openstack.connection import Connection

from tests.openstack.cloud import PLACE, unique, until

VENV = PLACE.parent / "venv" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configuration(file: Path, host: str) -> None:
    """Write the cloud's own configuration with another host and one back end."""
    found = configparser.RawConfigParser(strict=False)
    found.read(PLACE / "etc" / "cinder" / "cinder.conf")
    found["DEFAULT"].update(host=host, enabled_backends="iscsi")
    for other in ("fisk", "second"):
        found.remove_section(other)
    found["iscsi"] = {
        "volume_driver": "fisk_openstack.cinder.driver.FiskDriver",
        "volume_backend_name": host,
        "fisk_url": found["DEFAULT"]["fisk_url"],
        "fisk_target_protocol": "iscsi",
        "target_ip_address": "127.0.0.1",
        "target_port": str(_free_port()),
    }
    with file.open("w") as target:
        found.write(target)


@pytest.fixture(scope="session")
def volume_type(cloud: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A type of volumes of that service, which ends with the tests."""
    host, folder = unique("iscsi"), tmp_path_factory.mktemp("iscsi")
    _configuration(folder / "cinder.conf", host)
    block = cloud.block_storage
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            [VENV / "cinder-volume", "--config-file", folder / "cinder.conf"], stdout=log, stderr=log
        )
    try:
        # A service is up before it listens; what it can do is known when it does.
        pool = f"{host}@iscsi#{host}"
        until(lambda: any(each.name == pool for each in block.backend_pools()), "the volume service", 120)
        made = block.create_type(name=host, extra_specs={"volume_backend_name": host})
        yield made
        block.delete_type(made)
    finally:
        service.terminate()
        service.wait()
        subprocess.run(
            [VENV / "cinder-manage", "--config-file", folder / "cinder.conf", "service", "remove",
             "cinder-volume", f"{host}@iscsi"],
            check=True, capture_output=True,
        )  # fmt: skip

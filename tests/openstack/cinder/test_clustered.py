# SPDX-License-Identifier: Apache-2.0
"""Several volume services that serve one pool together: what one was to do, another does."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cloud import PLACE, ROOT, Maker, daemon_url, fisk_of, unique, until

PROGRAMS = ROOT / ".work" / "ministack" / "venv" / "bin"
CONFIGURATION = PLACE / "etc" / "cinder" / "cinder.conf"
BACKEND = "clustered"


class Member:
    """A volume service of the cluster ``name``."""

    def __init__(self, directory: Path, cluster: str, host: str) -> None:
        self.host = f"{host}@{BACKEND}"
        settings = directory / f"{host}.conf"
        settings.write_text(
            f"[DEFAULT]\nhost = {host}\ncluster = {cluster}\nenabled_backends = {BACKEND}\n"
            f"[{BACKEND}]\nvolume_driver = fisk_openstack.cinder.driver.FiskDriver\n"
            f"volume_backend_name = {cluster}\nfisk_url = {daemon_url()}\n"
        )
        files = [f"--config-file={CONFIGURATION}", f"--config-file={settings}"]
        self._process = subprocess.Popen(
            [PROGRAMS / "cinder-volume", *files, f"--log-file={directory / host}.log"], start_new_session=True
        )

    def end(self, how: int) -> None:
        """Send a signal to it and its children, and wait."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        self._process.wait(30)


def manage(*words: str) -> None:
    command = [PROGRAMS / "cinder-manage", f"--config-file={CONFIGURATION}", *words]
    subprocess.run(command, check=False, capture_output=True)  # it fails for what is gone already


def states(cloud: Connection) -> dict[str, str]:
    return {each.host: each.state for each in cloud.block_storage.services()}


@pytest.fixture
def cluster() -> str:
    return unique("cluster")


@pytest.fixture
def members(tmp_path: Path, cloud: Connection, cluster: str) -> Iterator[list[Member]]:
    """Two services, which are up."""
    started = [Member(tmp_path, cluster, f"{cluster}-{number}") for number in (1, 2)]
    try:
        hosts = {each.host for each in started}
        until(
            lambda: hosts <= {host for host, state in states(cloud).items() if state == "up"}, "both up", 120
        )
        yield started
    finally:
        for each in started:
            each.end(signal.SIGTERM)
        for each in started:
            manage("service", "remove", "cinder-volume", each.host)
        manage("cluster", "remove", "cinder-volume", f"{cluster}@{BACKEND}")


def test_one_of_two_dies(make: Maker, engine: RemoteEngine, members: list[Member], cluster: str) -> None:
    kind = make.type(cluster)
    until(lambda: _pool_known(make, cluster), "the pool in the scheduler", 90)
    volume = make.volume(volume_type=kind.id)
    answer = make.block.get(f"/volumes/{volume.id}").json()["volume"]
    assert answer["cluster_name"] == f"{cluster}@{BACKEND}#{cluster}"
    members[0].end(signal.SIGKILL)
    with ThreadPoolExecutor(4) as workers:
        snapshots = list(workers.map(lambda _: make.snapshot(volume), range(4)))
    copies = [make.volume(snapshot_id=each.id) for each in snapshots]
    make.block.extend_volume(volume, 2)
    make.settled(volume)
    for each in snapshots:
        make.remove_snapshot(each.id)
    make.remove_volume(volume.id)
    assert search(engine, Kind.VOLUME, volume.id) is None
    assert all(fisk_of(engine, Kind.VOLUME, each.id) for each in copies)
    for each in copies:
        make.remove_volume(each.id)


def _pool_known(make: Maker, cluster: str) -> Any:
    return [each for each in make.block.backend_pools() if each.name.endswith(f"#{cluster}")]

# SPDX-License-Identifier: Apache-2.0
"""Several volume services that serve one pool together: what one was to do, another does."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cinder.services import BACKEND, VolumeService, manage, serving
from tests.openstack.cloud import Maker, fisk_of, unique


@pytest.fixture
def cluster() -> str:
    return unique("cluster")


@pytest.fixture
def members(tmp_path: Path, cloud: Connection, cluster: str) -> Iterator[list[VolumeService]]:
    """Two services, which are up."""
    general = f"cluster = {cluster}"
    started = [VolumeService(tmp_path, f"{cluster}-{number}", cluster, general) for number in (1, 2)]
    with serving(cloud, cluster, started):
        yield started
    manage("cluster", "remove", "cinder-volume", f"{cluster}@{BACKEND}")


@pytest.mark.timeout(900)  # services start slowly on a busy machine
def test_one_of_two_dies(
    make: Maker, engine: RemoteEngine, members: list[VolumeService], cluster: str
) -> None:
    kind = make.type(cluster)
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

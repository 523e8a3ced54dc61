# SPDX-License-Identifier: Apache-2.0
"""Everything is killed in the middle of what it does: nothing is lost, and what is left is found and cleaned.

These kill daemons of the cloud by their ids and start them again: whoever works beside them notices.
"""

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from openstack.connection import Connection

from devstack.ministack.processes import Daemons
from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from fisk_openstack.reconcile.findings import STUCK, UNFINISHED
from tests.openstack.cloud import (
    MIB,
    PLACE,
    Maker,
    digest_of_file,
    digest_of_fisk,
    fisk_of,
    gone,
    ministack,
    unique,
    until,
)
from tests.openstack.conftest import Later
from tests.openstack.glance.apis import Api
from tests.openstack.glance.test_interrupted import traces
from tests.openstack.reconcile.conftest import Reconcile

pytestmark = pytest.mark.timeout(600)
Kill = Callable[[str], None]
_FLIGHT = (0.05, 0.6)
"""seconds after the first request at which a daemon may be killed"""


@pytest.fixture
def kill() -> Kill:
    """Kills a daemon of the cloud at once, and brings it up again."""

    def killed(name: str) -> None:
        daemon = Daemons(PLACE / "run", PLACE / "log").get(name)
        assert daemon, f"{name} does not run"
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: not daemon.alive(), f"{name} dead")
        ministack("up")

    return killed


def worker_of(engine: RemoteEngine, fisk: str) -> int:
    return next(int(each["pid"]) for each in engine.workers() if each["fisk_id"] == fisk)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_glance_in_the_middle_of_an_upload(
    tmp_path: Path,
    cloud: Connection,
    engine: RemoteEngine,
    later: Later,
    second_pool: str,
    raw_image: Path,
    reconcile: Reconcile,
    form: str,
) -> None:
    with Api(tmp_path, cloud) as api:
        image = api.create(form)
        later(lambda: cloud.image.delete_image(image))
        data = random.Random(1).randbytes(8 * MIB) if form == "raw" else raw_image.read_bytes()[: 2 * MIB]
        with api.begin_upload(image, 64 * MIB, data):
            until(lambda: api.show(image)["status"] == "saving", "the upload begun")
            until(lambda: traces(engine, image), "the Fisk begun")
            api.kill()
    until(lambda: not _connected(engine, image), "nobody connected")
    found = reconcile(image, mend=True)
    assert {(each.what, each.repaired) for each in found} == {(STUCK, False), (UNFINISHED, True)}
    assert not traces(engine, image)
    cloud.image.delete_image(image)
    assert reconcile(image) == []


def _connected(engine: RemoteEngine, image: str) -> bool:
    ids = {each.id for each in traces(engine, image)}
    return any(each["connections"] for each in engine.workers() if each["fisk_id"] in ids)


@pytest.mark.parametrize("victim", ["worker", "fiskd"])
def test_storage_in_the_middle_of_an_upload(
    cloud: Connection,
    engine: RemoteEngine,
    later: Later,
    reconcile: Reconcile,
    kill: Kill,
    api: Api,
    victim: str,
) -> None:
    """The upload goes on or fails as a whole, and the image can be sent again."""
    data = random.Random(1).randbytes(32 * MIB)
    image = api.create()
    later(lambda: cloud.image.delete_image(image))

    with suppress(ConnectionError), api.begin_upload(image, len(data), data[: 8 * MIB]) as connection:
        building = until(lambda: traces(engine, image), "the Fisk begun")[0].id
        if victim == "fiskd":
            kill("fiskd")
        else:
            os.kill(worker_of(engine, building), signal.SIGKILL)
        connection.sendall(data[8 * MIB :])
        connection.settimeout(120)
        connection.recv(1000)
    until(lambda: api.show(image)["status"] in ("active", "queued"), "the upload over", 120)
    status = api.show(image)["status"]
    if status == "queued":
        assert not traces(engine, image)
        api.upload(image, data).raise_for_status()
    assert hashlib.sha256(api.bytes_of(image)).digest() == hashlib.sha256(data).digest()
    assert reconcile(image) == []


@pytest.mark.parametrize("victim", ["cinder-volume", "fiskd"])
def test_in_the_middle_of_volumes_and_snapshots(
    make: Maker,
    engine: RemoteEngine,
    qcow2_image: Path,
    raw_image: Path,
    reconcile: Reconcile,
    kill: Kill,
    victim: str,
) -> None:
    image = make.image(qcow2_image, "qcow2")
    source = make.volume(image_id=image.id)
    volumes = [make.volume(wait=False, image_id=image.id) for _ in range(2)]
    volumes += [make.volume(wait=False, source_volume_id=source.id) for _ in range(2)]
    snapshots = [make.block.create_snapshot(volume_id=source.id, name=unique("snapshot"), force=True)]
    for each in snapshots:
        make.later(lambda own=each.id: make.remove_snapshot(own))
    time.sleep(random.uniform(*_FLIGHT))
    kill(victim)
    states = {each.id: _ended(make, each) for each in (*volumes, *snapshots)}
    size, wanted = raw_image.stat().st_size, digest_of_file(raw_image)
    for each in (source, *volumes):
        if states.get(each.id, "available") == "available":
            fisk = fisk_of(engine, Kind.VOLUME, each.id)
            assert digest_of_fisk(engine, fisk.id, size=size) == wanted
    for each in snapshots:
        make.block.reset_snapshot_status(each.id, "error")
        make.remove_snapshot(each.id)
    for each in (*volumes, source):
        make.block.reset_volume_status(each.id, "error")
        make.remove_volume(each.id)
    reconcile(*states, source.id, mend=True)
    assert reconcile(*states, source.id) == []
    for each in (*volumes, source):
        assert search(engine, Kind.VOLUME, each.id) is None


def _ended(make: Maker, thing: object) -> str:
    """Give the status in which a volume or snapshot stays."""
    last = [""]

    def over() -> bool:
        last[0] = str(thing.fetch(make.block).status)  # type: ignore[attr-defined]  # both kinds have it
        return last[0] in ("available", "error")

    deadline = time.monotonic() + 60
    while not over() and time.monotonic() < deadline:
        time.sleep(0.5)
    return last[0]


def test_nova_in_the_middle_of_a_build(
    cloud: Connection, engine: RemoteEngine, make: Maker, raw_image: Path, reconcile: Reconcile, kill: Kill
) -> None:
    image = make.image(raw_image)
    flavor = next(each for each in cloud.compute.flavors() if each.name == "m1.tiny")
    server = cloud.compute.create_server(
        name=unique("server"), image_id=image.id, flavor_id=flavor.id, networks="none"
    )
    make.later(lambda: cloud.compute.delete_server(server.id, force=True))
    until(lambda: search(engine, Kind.DISK, f"{server.id}/disk"), "the disk of the server", 120)
    kill("nova-compute")
    until(lambda: cloud.compute.get_server(server.id).status in ("ACTIVE", "ERROR"), "the build over", 120)
    cloud.compute.delete_server(server.id)
    until(lambda: gone(lambda: cloud.compute.get_server(server.id)), "the server gone", 120)
    reconcile(server.id, mend=True)
    assert reconcile(server.id) == []
    assert search(engine, Kind.DISK, f"{server.id}/disk") is None

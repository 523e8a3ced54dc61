# SPDX-License-Identifier: Apache-2.0
"""Orphans on either side are found, and only those that are orphans for certain are removed.

Every test looks at ids of its own: others work on the same cloud.
"""

import os
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_core.errors import InvalidValue
from fisk_core.model import Fisk
from fisk_openstack.cloud import Cloud
from fisk_openstack.labels import SERVER, Kind, fisk_id, fisk_name, labels, search
from fisk_openstack.reconcile import Fix, survey
from fisk_openstack.reconcile.findings import ATTACHMENT, LEFTOVER, MISSING, ORPHAN, TWIN
from fisk_openstack.reconcile.repair import require_right_cloud
from tests.openstack.cloud import MIB, Maker, fisk_of, unique, until
from tests.openstack.conftest import Later
from tests.openstack.reconcile.conftest import Reconcile
from tests.openstack.reconcile.programs import run


def orphan(cloud: Connection, engine: RemoteEngine, later: Later, kind: Kind, own: str) -> Fisk:
    """Make a Fisk as a service does that then forgets it."""
    attributes = labels(kind, own, project=cloud.current_project_id)
    if kind is Kind.DISK:
        attributes[SERVER] = own.partition("/")[0]
    made = engine.create(fisk_name(kind, own), MIB, attributes=attributes, id=fisk_id(kind, own))
    later(lambda: search(engine, kind, own) and engine.delete(made.id))
    return made


@pytest.mark.parametrize("kind", [Kind.IMAGE, Kind.VOLUME, Kind.SNAPSHOT, Kind.BACKUP, Kind.DISK])
def test_fisk_without_its_resource(
    cloud: Connection, engine: RemoteEngine, later: Later, reconcile: Reconcile, kind: Kind
) -> None:
    resource = str(uuid4())
    own = f"{resource}/disk" if kind is Kind.DISK else resource
    orphan(cloud, engine, later, kind, own)
    assert reconcile(resource, grace=3600) == []  # it may be under way
    assert [(each.what, each.fix) for each in reconcile(resource)] == [(ORPHAN, Fix.DELETE)]
    assert search(engine, kind, own)
    assert [each.repaired for each in reconcile(resource, mend=True)] == [True]
    assert search(engine, kind, own) is None


def test_fisk_of_another_cloud_is_let_be(engine: RemoteEngine, later: Later, reconcile: Reconcile) -> None:
    own = str(uuid4())
    attributes = labels(Kind.VOLUME, own, project=uuid4().hex)
    made = engine.create(fisk_name(Kind.VOLUME, own), MIB, attributes=attributes)
    later(lambda: search(engine, Kind.VOLUME, own) and engine.delete(made.id))
    assert [each.repaired for each in reconcile(own, mend=True)] == [False]
    assert engine.get(made.id)
    assert [each.repaired for each in reconcile(own, mend=True, any_project=True)] == [True]
    assert search(engine, Kind.VOLUME, own) is None


def test_cloud_that_knows_none_of_the_fisks_is_the_wrong_one(cloud: Connection, engine: RemoteEngine) -> None:
    asked = Cloud(cloud)
    seen = survey(engine, asked, timedelta())
    stranger = replace(seen, resources={kind: {} for kind in seen.resources})
    with pytest.raises(InvalidValue, match="is it the right one"):
        require_right_cloud(stranger, asked, only_region=False)


def test_attachment_without_its_server(
    engine: RemoteEngine, later: Later, make: Maker, reconcile: Reconcile
) -> None:
    volume = make.volume()
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    attachment = engine.attach(fisk.id, consumer=str(uuid4()))
    later(lambda: engine.detach(attachment.id))
    found = reconcile(volume.id, mend=True)
    assert [(each.what, each.target, each.repaired) for each in found] == [(ATTACHMENT, attachment.id, True)]
    assert not engine.attachments(fisk=fisk.id)
    assert engine.get(fisk.id)


def test_attachment_whose_process_has_ended(engine: RemoteEngine, make: Maker, reconcile: Reconcile) -> None:
    volume = make.volume()
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    with subprocess.Popen(["true"]) as process:
        pass
    engine.attach(fisk.id, read_only=True, consumer=f"{engine.about()['host']}:{process.pid}")
    with engine.open_disk(fisk.id):
        found = reconcile(volume.id, mend=True)
        assert [(each.what, each.repaired) for each in found] == [(ATTACHMENT, True)]
        assert len(engine.attachments(fisk=fisk.id)) == 1  # ours stays


def test_orphan_that_a_dead_server_has_is_detached_first(
    cloud: Connection, engine: RemoteEngine, later: Later, reconcile: Reconcile
) -> None:
    server = str(uuid4())
    made = orphan(cloud, engine, later, Kind.DISK, f"{server}/disk")
    engine.attach(made.id, consumer=server)
    assert [each.what for each in reconcile(server, mend=True)] == [ATTACHMENT, ORPHAN]
    assert search(engine, Kind.DISK, f"{server}/disk") is None


def test_orphan_somebody_reads_is_let_be(
    cloud: Connection, engine: RemoteEngine, later: Later, reconcile: Reconcile
) -> None:
    own = str(uuid4())
    made = orphan(cloud, engine, later, Kind.VOLUME, own)
    with engine.open_disk(made.id):
        assert [each.repaired for each in reconcile(own, mend=True)] == [False]
    assert engine.get(made.id)


def test_twin_without_its_image(
    engine: RemoteEngine, make: Maker, qcow2_image: Path, reconcile: Reconcile
) -> None:
    image = make.image(qcow2_image, "qcow2")
    engine.delete(fisk_of(engine, Kind.IMAGE, image.id).id)
    assert {each.what for each in reconcile(image.id)} == {MISSING, TWIN}
    make.cloud.image.delete_image(image.id)
    found = reconcile(image.id, mend=True)
    assert [(each.what, each.kind, each.repaired) for each in found] == [(ORPHAN, "original", True)]


@pytest.mark.timeout(600)
def test_what_a_server_had_for_a_rescue_or_resize_that_is_over(
    cloud: Connection, engine: RemoteEngine, later: Later, make: Maker, raw_image: Path, reconcile: Reconcile
) -> None:
    flavor = next(each for each in cloud.compute.flavors() if each.name == "m1.tiny")
    image = make.image(raw_image)
    server = cloud.compute.create_server(
        name=unique("server"), image_id=image.id, flavor_id=flavor.id, networks="none"
    )
    later(lambda: cloud.compute.delete_server(server.id, force=True))
    until(lambda: cloud.compute.get_server(server.id).status == "ACTIVE", "the server up", 180)
    assert reconcile(server.id) == []
    for name in ("disk@nova-resize", "disk.rescue"):
        orphan(cloud, engine, later, Kind.DISK, f"{server.id}/{name}")
    found = reconcile(server.id, mend=True)
    assert [(each.what, each.repaired) for each in found] == [(LEFTOVER, True), (LEFTOVER, True)]
    disks = [each.attributes[Kind.DISK] for each in engine.list(attributes={SERVER: server.id})]
    assert disks == [f"{server.id}/disk"]


def test_volume_and_snapshot_without_their_fisks(
    engine: RemoteEngine, make: Maker, reconcile: Reconcile
) -> None:
    volume = make.volume()
    snapshot = make.snapshot(volume)
    engine.delete(fisk_of(engine, Kind.VOLUME, volume.id).id, fisk_of(engine, Kind.SNAPSHOT, snapshot.id).id)
    found = reconcile(volume.id, snapshot.id, mend=True)
    assert {(each.what, each.kind, each.repaired) for each in found} == {
        (MISSING, "volume", False),
        (MISSING, "snapshot", False),
    }


def test_command_tells_by_its_status(cloud: Connection, engine: RemoteEngine, later: Later) -> None:
    own = str(uuid4())
    orphan(cloud, engine, later, Kind.VOLUME, own)
    assert run("fisk", "openstack", "reconcile", own).returncode == 0  # younger than an hour
    done = run("fisk", "openstack", "reconcile", "--grace", "0s", own, "-f", "value", "-c", "What")
    assert (done.returncode, done.stdout) == (8, "orphan\n")
    assert run("openstack", "fisk", "reconcile", "--grace", "0s", "--repair", own).returncode == 0
    assert search(engine, Kind.VOLUME, own) is None


def test_without_a_cloud_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.openstack.reconcile.programs.environment", dict)
    for name in [each for each in os.environ if each.startswith("OS_")]:
        monkeypatch.delenv(name)
    done = run("fisk", "openstack", "reconcile")
    assert done.returncode == 5
    assert "which cloud?" in done.stderr

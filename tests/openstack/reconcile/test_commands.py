# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk list/show/tree``: everything is a Fisk, and has the name people gave it."""

from pathlib import Path

from tests.openstack.cloud import Maker
from tests.openstack.reconcile.programs import run, told


def test_everything_made_of_an_image_is_shown_as_what_it_is(make: Maker, qcow2_image: Path) -> None:
    image = make.image(qcow2_image, "qcow2")
    volume = make.volume(image_id=image.id)
    snapshot = make.snapshot(volume)
    listed = {(each["Kind"], each["OpenStack ID"]): each for each in told("openstack", "fisk", "list")}
    for kind, thing in (("image", image), ("original", image), ("volume", volume), ("snapshot", snapshot)):
        assert listed[kind, thing.id]["Name"] == thing.name
    only = told("fisk", "openstack", "list", "--kind", "image")
    assert {each["Kind"] for each in only} == {"image"}

    shown = told("openstack", "fisk", "show", volume.name)
    assert (shown["openstack_kind"], shown["openstack_id"]) == ("volume", volume.id)
    assert shown["id"] == listed["volume", volume.id]["ID"]
    assert shown["exclusive"] == 0
    assert shown["shared"] == shown["referenced"] > 0
    assert told("fisk", "openstack", "show", snapshot.id)["openstack_name"] == snapshot.name

    tree = told("openstack", "fisk", "tree", image.id)
    assert [(each["Depth"], each["Kind"]) for each in tree] == [(0, "image"), (1, "volume"), (2, "snapshot")]
    drawn = run("openstack", "fisk", "tree", image.name).stdout.splitlines()
    assert [line.split()[-5] for line in drawn] == [image.name, volume.name, snapshot.name]


def test_name_that_nothing_has() -> None:
    done = run("openstack", "fisk", "show", "nothing")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, "fisk: there is no Fisk 'nothing'")

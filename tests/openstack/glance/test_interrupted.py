# SPDX-License-Identifier: Apache-2.0
"""Uploads that come to no end leave nothing behind."""

import random
from pathlib import Path

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack.labels import Kind
from tests.openstack.cloud import MIB, until
from tests.openstack.conftest import Later
from tests.openstack.glance.apis import Api


def traces(engine: RemoteEngine, image: str) -> list[Fisk]:
    """Give every Fisk of an image, under construction or not."""
    every = (
        engine.list(state=state, attributes={kind: image})
        for state in (None, "building")
        for kind in (Kind.IMAGE, Kind.ORIGINAL)
    )
    return [fisk for found in every for fisk in found]


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_client_gone_in_the_middle(
    api: Api, engine: RemoteEngine, later: Later, qcow2_image: Path, form: str
) -> None:
    image = api.create(form)
    later(lambda: api.call("DELETE", f"/images/{image}"))
    data = random.Random(1).randbytes(8 * MIB) if form == "raw" else qcow2_image.read_bytes()[: 8 * MIB]
    with api.begin_upload(image, 64 * MIB, data):
        until(lambda: api.show(image)["status"] == "saving", "the upload begun")
        if form == "raw":
            until(lambda: traces(engine, image), "the Fisk begun")
    until(lambda: api.show(image)["status"] == "queued", "the upload given up")
    assert not traces(engine, image)
    api.upload(image, data if form == "raw" else qcow2_image.read_bytes()).raise_for_status()
    assert api.show(image)["status"] == "active"

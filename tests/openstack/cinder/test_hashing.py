# SPDX-License-Identifier: Apache-2.0
"""Images of volumes whose hash Glance is told: nobody reads them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind
from tests.openstack.cinder.services import VolumeService, serving
from tests.openstack.cloud import GIB, MIB, Maker, digest_of_file, digest_of_fisk, fisk_of, unique
from tests.openstack.glance.apis import Api


@pytest.fixture
def backend(tmp_path: Path, cloud: Connection) -> Iterator[str]:
    """A back end that hashes, with a Glance that does not."""
    name = unique("hashing")
    with Api(tmp_path, cloud, "[DEFAULT]\ndo_secure_hash = false\n") as glance:
        general, own = f"glance_api_servers = {glance.url}", "fisk_image_hash = sha512"
        service = VolumeService(tmp_path, name, name, general, own)
        with serving(cloud, name, [service]):
            yield name


@pytest.mark.timeout(900)  # services start slowly on a busy machine
def test_hash_is_told(make: Maker, engine: RemoteEngine, raw_image: Path, backend: str) -> None:
    kind = make.type(backend)
    volume = make.volume(image_id=make.image(raw_image).id, volume_type=kind.id)
    image = make.image_of(volume)
    assert (image.hash_algo, image.hash_value) == ("sha512", digest_of_file(raw_image, "sha512", GIB))
    key = "openstack.hash.sha512"
    assert fisk_of(engine, Kind.IMAGE, image.id).attributes[key] == image.hash_value
    # What is made of it has the same hash as long as nothing is written.
    engine.set(fisk_of(engine, Kind.IMAGE, image.id).id, attributes={key: "ab" * 64})
    copy = make.volume(image_id=image.id, volume_type=kind.id)
    assert make.image_of(copy).hash_value == "ab" * 64, "it was read"
    fisk = fisk_of(engine, Kind.VOLUME, copy.id)
    with engine.open_disk(fisk.id, writable=True) as disk:
        disk.write(700 * MIB, b"something else")
    assert make.image_of(copy).hash_value == digest_of_fisk(engine, fisk.id, "sha512")
    for each in (copy, volume):
        make.remove_volume(each.id)

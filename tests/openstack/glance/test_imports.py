# SPDX-License-Identifier: Apache-2.0
"""The ways an image comes in: staged, fetched, copied between stores, converted, by its location alone."""

import gzip
import hashlib
from pathlib import Path

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cloud import Maker, digest_of_file, digest_of_fisk, fisk_of, until
from tests.openstack.conftest import Later
from tests.openstack.glance.apis import SECOND, Api, served

_CONVERTING = """
[image_import_opts]
image_import_plugins = ['image_conversion']
[image_conversion]
output_format = raw
"""


def active(api: Api, image: str) -> bool:
    found = api.show(image)
    assert not found.get("os_glance_failed_import"), found
    return bool(found["status"] == "active" and not found.get("os_glance_importing_to_stores"))


def test_staged(api: Api, engine: RemoteEngine, later: Later, qcow2_image: Path, raw_image: Path) -> None:
    image = api.create("qcow2")
    later(lambda: api.call("DELETE", f"/images/{image}"))
    api.stage(image, qcow2_image.read_bytes())
    api.start_import(image, {"name": "glance-direct"})
    until(lambda: active(api, image), f"image {image} imported")
    assert api.bytes_of(image) == qcow2_image.read_bytes()
    fisk = fisk_of(engine, Kind.IMAGE, image)
    assert digest_of_fisk(engine, fisk.id, size=raw_image.stat().st_size) == digest_of_file(raw_image)


def test_fetched(api: Api, later: Later, qcow2_image: Path) -> None:
    image = api.create("qcow2")
    later(lambda: api.call("DELETE", f"/images/{image}"))
    with served(qcow2_image.parent) as url:
        api.start_import(image, {"name": "web-download", "uri": f"{url}/{qcow2_image.name}"})
        until(lambda: active(api, image), f"image {image} imported")
    assert api.bytes_of(image) == qcow2_image.read_bytes()


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_copied_to_another_store(
    api: Api, engine: RemoteEngine, later: Later, raw_image: Path, qcow2_image: Path, form: str
) -> None:
    file = raw_image if form == "raw" else qcow2_image
    image = api.create(form)
    later(lambda: api.call("DELETE", f"/images/{image}"))
    api.upload(image, file.read_bytes(), **{"X-Image-Meta-Store": "fisk"}).raise_for_status()
    api.start_import(image, {"name": "copy-image"}, stores=["other"])
    until(lambda: set(api.show(image)["stores"].split(",")) == {"fisk", "other"}, "both stores")
    until(lambda: active(api, image), f"image {image} copied")
    found = {each.pool: each for each in engine.list(attributes={Kind.IMAGE.value: image})}
    assert set(found) == {"default", SECOND}
    size = raw_image.stat().st_size
    for fisk in found.values():
        assert digest_of_fisk(engine, fisk.id, size=size) == digest_of_file(raw_image)
    picked = search(engine, Kind.IMAGE, image, pool=SECOND)
    assert picked is not None
    assert picked.pool == SECOND
    api.call("DELETE", f"/stores/fisk/{image}").raise_for_status()
    assert [each.pool for each in engine.list(attributes={Kind.IMAGE.value: image})] == [SECOND]
    assert api.bytes_of(image) == file.read_bytes()
    api.call("DELETE", f"/images/{image}").raise_for_status()
    for kind in (Kind.IMAGE, Kind.ORIGINAL):
        assert not engine.list(attributes={kind.value: image})


def test_imported_to_both_stores_at_once(
    api: Api, engine: RemoteEngine, later: Later, raw_image: Path
) -> None:
    image = api.create()
    later(lambda: api.call("DELETE", f"/images/{image}"))
    api.stage(image, raw_image.read_bytes())
    api.start_import(image, {"name": "glance-direct"}, all_stores=True)
    until(lambda: active(api, image), f"image {image} imported")
    assert {each.pool for each in engine.list(attributes={Kind.IMAGE.value: image})} == {"default", SECOND}


def test_converted_by_glance_needs_no_twin(
    tmp_path: Path, cloud: Connection, engine: RemoteEngine, later: Later, raw_image: Path, qcow2_image: Path
) -> None:
    with Api(tmp_path, cloud, _CONVERTING) as api:
        image = api.create("qcow2")
        later(lambda: cloud.image.delete_image(image))
        api.stage(image, qcow2_image.read_bytes())
        api.start_import(image, {"name": "glance-direct"})
        until(lambda: active(api, image), f"image {image} imported")
        told = api.show(image)
        data = api.bytes_of(image)
    assert told["disk_format"] == "raw"
    assert hashlib.sha256(data).hexdigest() == digest_of_file(raw_image, size=len(data))
    assert told["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert search(engine, Kind.ORIGINAL, image) is None


def test_volume_becomes_an_image_by_its_location_alone(make: Maker, engine: RemoteEngine, api: Api) -> None:
    volume = make.volume()
    with engine.open_disk(fisk_of(engine, Kind.VOLUME, volume.id).id, writable=True) as disk:
        disk.write(12345, b"content" * 10000)
    image = make.image_of(volume)
    assert image.size == 1 << 30
    fisk = fisk_of(engine, Kind.IMAGE, image.id)
    assert engine.usage(fisk.id).exclusive == 0
    assert api.bytes_of(image.id, "bytes=12345-82344") == b"content" * 10000
    digest = digest_of_fisk(engine, fisk.id, "sha512")
    until(lambda: api.show(image.id)["os_hash_value"] == digest, "the hash of the image")


def test_what_was_compressed_is_no_disk(
    api: Api, make: Maker, engine: RemoteEngine, later: Later, raw_image: Path
) -> None:
    """Its Fisk has the bytes that were sent: Cinder is to unpack them, or, as by default, to refuse."""
    packed = gzip.compress(raw_image.read_bytes(), 1)
    image = api.create("raw", container_format="compressed")
    later(lambda: api.call("DELETE", f"/images/{image}"))
    api.upload(image, packed).raise_for_status()
    assert api.bytes_of(image) == packed
    volume = make.settled(make.volume(wait=False, image_id=image), "available", "error")
    assert volume.status == "error"

# SPDX-License-Identifier: Apache-2.0
"""Images: kept as they were sent, read anywhere, deleted at any time."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from fisk_core.client import RemoteEngine
from fisk_core.model import State
from fisk_openstack.labels import READERS, Kind, search
from tests.openstack.cloud import MIB, Maker, converted, digest_of_file, digest_of_fisk, fisk_of, gone
from tests.openstack.conftest import Later
from tests.openstack.glance.apis import Api


@pytest.fixture
def new(api: Api, later: Later) -> str:
    """The record of an image without data."""
    image = api.create()
    later(lambda: api.call("DELETE", f"/images/{image}"))
    return image


def pieces(data: bytes, size: int = 100_001) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk", "vhdx", "vdi"])
def test_any_format_comes_back_as_sent_and_is_raw_blocks_at_once(
    api: Api, engine: RemoteEngine, later: Later, raw_image: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "disk.raw").write_bytes(raw_image.read_bytes())
    file = converted(tmp_path / "disk.raw", form) if form != "raw" else raw_image
    data = file.read_bytes()
    image = api.create(form)
    later(lambda: api.call("DELETE", f"/images/{image}"))
    api.upload(image, data).raise_for_status()
    told = api.show(image)
    assert (told["status"], told["size"], told["stores"]) == ("active", len(data), "fisk")
    assert told["checksum"] == hashlib.md5(data).hexdigest()
    assert told["os_hash_algo"] == "sha512"
    assert told["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert not {"locations", "direct_url"} & set(told)
    assert api.bytes_of(image) == data
    fisk = fisk_of(engine, Kind.IMAGE, image)
    assert fisk.state is State.FROZEN
    size = raw_image.stat().st_size
    assert digest_of_fisk(engine, fisk.id, size=size) == digest_of_file(raw_image)
    twin = engine.list(attributes={Kind.ORIGINAL.value: image})
    assert len(twin) == (form != "raw")
    api.call("DELETE", f"/images/{image}").raise_for_status()
    assert search(engine, Kind.IMAGE, image) is search(engine, Kind.ORIGINAL, image) is None


def test_length_that_nobody_announced_and_no_whole_sector(api: Api, engine: RemoteEngine, new: str) -> None:
    data = bytes(3 * MIB) + b"the end" + bytes(range(256)) * 9
    api.upload(new, pieces(data)).raise_for_status()
    assert api.show(new)["size"] == len(data)
    assert api.bytes_of(new) == data
    fisk = fisk_of(engine, Kind.IMAGE, new)
    assert engine.usage(fisk.id).referenced < MIB  # zeros are not kept


def test_image_without_data(api: Api, engine: RemoteEngine, new: str) -> None:
    """Nova makes such of servers on volumes: all they say is which snapshots there are."""
    api.upload(new, b"").raise_for_status()
    told = api.show(new)
    assert (told["status"], told["size"], told["checksum"]) == ("active", 0, hashlib.md5(b"").hexdigest())
    api.call("DELETE", f"/images/{new}").raise_for_status()
    assert search(engine, Kind.IMAGE, new) is None


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-4999", 100, 5000),
        ("bytes=1000000-", 1_000_000, None),
        ("bytes=-513", -513, None),
        ("bytes=5000000-9000000", 5_000_000, 9_000_001),
    ],
)
def test_ranges(api: Api, make: Maker, qcow2_image: Path, wanted: str, start: int, end: int | None) -> None:
    image = make.image(qcow2_image, "qcow2")
    assert api.bytes_of(image.id, wanted) == qcow2_image.read_bytes()[start:end]


def test_range_behind_the_end_is_refused(api: Api, make: Maker, raw_image: Path) -> None:
    image = make.image(raw_image)
    answer = api.call("GET", f"/images/{image.id}/file", headers={"Range": f"bytes={1 << 40}-"})
    assert answer.status_code == 416


def test_another_hash(tmp_path: Path, api: Api, engine: RemoteEngine, later: Later) -> None:
    data = b"some data" * 1000
    more = "\n[DEFAULT]\nhashing_algorithm = sha256\n"
    with Api(tmp_path, api.cloud, more) as other:
        image = other.create()
        later(lambda: api.call("DELETE", f"/images/{image}"))
        other.upload(image, data).raise_for_status()
        told = other.show(image)
    assert (told["os_hash_algo"], told["os_hash_value"]) == ("sha256", hashlib.sha256(data).hexdigest())


def test_deleted_while_volumes_made_of_it_live(
    make: Maker, engine: RemoteEngine, qcow2_image: Path, raw_image: Path
) -> None:
    image = make.image(qcow2_image, "qcow2")
    volume = make.volume(image_id=image.id)
    make.cloud.image.delete_image(image.id)
    assert gone(lambda: make.cloud.image.get_image(image.id))
    assert search(engine, Kind.IMAGE, image.id) is None
    size = raw_image.stat().st_size
    assert digest_of_fisk(engine, fisk_of(engine, Kind.VOLUME, volume.id).id, size=size) == digest_of_file(
        raw_image
    )


def test_deleted_while_somebody_reads_it(api: Api, make: Maker, engine: RemoteEngine, tmp_path: Path) -> None:
    file = tmp_path / "large.raw"
    with file.open("wb") as sink:
        for _ in range(64):
            sink.write(hashlib.sha256(b"x").digest() * (MIB // 32))
    image = make.image(file)
    headers = {"X-Auth-Token": api.cloud.auth_token}
    with requests.get(
        f"{api.url}/v2/images/{image.id}/file", headers=headers, stream=True, timeout=60
    ) as answer:
        assert next(answer.iter_content(4096))
        assert api.call("DELETE", f"/images/{image.id}").status_code == 204
    assert search(engine, Kind.IMAGE, image.id) is None


def test_who_may_read_it_is_noted(api: Api, engine: RemoteEngine, new: str) -> None:
    api.upload(new, b"data").raise_for_status()
    assert fisk_of(engine, Kind.IMAGE, new).attributes[READERS] == "-"
    patch = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    change = '[{"op": "replace", "path": "/visibility", "value": "shared"}]'
    api.call("PATCH", f"/images/{new}", data=change, headers=patch).raise_for_status()
    member = next(each.id for each in api.cloud.identity.projects() if each.name == "service")
    api.call("POST", f"/images/{new}/members", json={"member": member}).raise_for_status()
    assert fisk_of(engine, Kind.IMAGE, new).attributes[READERS] == member
    api.call("PATCH", f"/images/{new}", data=change.replace("shared", "public"), headers=patch)
    assert fisk_of(engine, Kind.IMAGE, new).attributes[READERS] == "*"


def test_what_is_not_what_it_is_said_to_be_goes_with_its_record(
    api: Api, engine: RemoteEngine, later: Later, raw_image: Path
) -> None:
    image = api.create("qcow2")
    later(lambda: api.call("DELETE", f"/images/{image}"))
    assert api.upload(image, raw_image.read_bytes()).status_code == 415
    assert api.show(image)["status"] == "queued"
    api.call("DELETE", f"/images/{image}").raise_for_status()
    assert search(engine, Kind.IMAGE, image) is None


def test_image_that_refers_to_a_file_of_the_host_is_refused(
    api: Api, engine: RemoteEngine, later: Later, raw_image: Path, tmp_path: Path
) -> None:
    file = tmp_path / "thief.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", file, "1M"],
        check=True,
    )
    image = api.create("qcow2")
    later(lambda: api.call("DELETE", f"/images/{image}"))
    assert 400 <= api.upload(image, file.read_bytes()).status_code < 500
    assert search(engine, Kind.IMAGE, image) is None
    assert not engine.list(state="building", attributes={Kind.IMAGE.value: image})

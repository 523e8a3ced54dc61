# SPDX-License-Identifier: Apache-2.0
"""The running cloud as tests see it: where it is, who we are there, and things that are gone after a test."""

import hashlib
import os
import random
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from openstack.connection import Connection
from openstack.exceptions import NotFoundException

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack.labels import Kind, find

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("MINISTACK_PLACE", ROOT / ".work" / "ministack" / "fisk"))
COMPUTES = int(os.environ.get("MINISTACK_COMPUTES", "1"))
"""how many compute hosts it has"""
GIB = 1 << 30
MIB = 1 << 20
MICROVERSION = "3.71"
_CHUNK = 4 * MIB


def ministack(*words: str) -> None:
    """Do something with the running cloud, ``up`` for one; raises CalledProcessError."""
    command = [ROOT / "devstack" / "ministack" / "ministack", f"--computes={COMPUTES}", *words]
    subprocess.run(command, check=True, capture_output=True)


def environment() -> dict[str, str]:
    """Give the variables of the cloud's ``openrc``: ``OS_AUTH_URL`` …"""
    found = {}
    for line in (PLACE / "openrc").read_text().splitlines():
        words = shlex.split(line.removeprefix("export "))
        if words and words[0].startswith("OS_"):
            name, _, value = words[0].partition("=")
            found[name] = value
    return found


def connect(**changes: str) -> Connection:
    """Give a connection as ``admin``; ``changes`` as openstacksdk has them: ``username`` …"""
    found = environment()
    names = ("auth_url", "username", "password", "project_name", "user_domain_id", "project_domain_id")
    auth = {name: found[f"OS_{name.upper()}"] for name in names} | changes
    return Connection(
        **auth, region_name=found["OS_REGION_NAME"], block_storage_default_microversion=MICROVERSION
    )


def daemon_url() -> str:
    """Give the URL of the daemon behind the cloud."""
    return f"unix://{PLACE / 'data' / 'fisk' / 'run' / 'fiskd.sock'}"


def unique(word: str = "thing") -> str:
    """Give a name that nobody else has."""
    return f"test-{word}-{uuid4().hex[:8]}"


def next_second() -> None:
    """Wait until what is made now is younger than all there is: Cinder counts in seconds."""
    time.sleep(1 - time.time() % 1)


def until(true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait for something that is true and give it; raises TimeoutError, which says ``what`` did not come."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return found


def gone(get: Callable[[], Any]) -> bool:
    """Say whether what ``get`` asks for is there no more."""
    try:
        return get() is None
    except NotFoundException:
        return True


def raw_file(path: Path, size: int = 24 * MIB, seed: int = 1) -> Path:
    """Write a raw image: every other MiB is data."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for offset in range(0, size, 2 * MIB):
            file.seek(offset)
            file.write(source.randbytes(MIB))
        file.truncate(size)
    return path


def converted(raw: Path, form: str) -> Path:
    """Give the same image in another format, beside it."""
    target = raw.with_suffix(f".{form}")
    subprocess.run(["qemu-img", "convert", "-O", form, raw, target], check=True)
    return target


def digest_of_file(path: Path, algorithm: str = "sha256", size: int | None = None) -> str:
    """Give the hash of a file, as it were with zeros up to ``size`` bytes."""
    found = hashlib.new(algorithm)
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            found.update(part)
    left = (size or 0) - path.stat().st_size
    while left > 0:
        found.update(bytes(min(left, _CHUNK)))
        left -= _CHUNK
    return found.hexdigest()


def digest_of_fisk(engine: RemoteEngine, ref: str, algorithm: str = "sha256", size: int | None = None) -> str:
    """Give the hash of the first ``size`` bytes of a Fisk, all by default."""
    found = hashlib.new(algorithm)
    with engine.open_disk(ref) as disk:
        end = disk.size if size is None else size
        for offset in range(0, end, _CHUNK):
            found.update(disk.read(offset, min(_CHUNK, end - offset)))
    return found.hexdigest()


def fisk_of(engine: RemoteEngine, kind: Kind, own: str) -> Fisk:
    """Give the Fisk of an object of OpenStack; raises NotFound."""
    return find(engine, kind, own)


class Maker:
    """Makes what tests need through the APIs, waits for it, and removes it through ``later``."""

    def __init__(self, cloud: Connection, later: Callable[[Callable[[], object]], None]) -> None:
        self.cloud, self.block, self.later = cloud, cloud.block_storage, later

    def volume(self, size: int = 1, *, wait: bool = True, **options: Any) -> Any:
        """Make a volume of ``size`` GiB; ``options`` as openstacksdk has them: ``image_id`` …"""
        made = self.block.create_volume(name=unique("volume"), size=size, **options)
        self.later(lambda: self.remove_volume(made.id))
        return self.settled(made) if wait else made

    def snapshot(self, volume: Any, **options: Any) -> Any:
        """Make a snapshot of a volume."""
        made = self.block.create_snapshot(volume_id=volume.id, name=unique("snapshot"), force=True, **options)
        self.later(lambda: self.remove_snapshot(made.id))
        return self.settled(made)

    def image(self, file: Path, disk_format: str = "raw") -> Any:
        """Upload an image."""
        name = unique("image")
        made = self.cloud.image.create_image(
            name=name, filename=str(file), disk_format=disk_format, container_format="bare", wait=True
        )
        self.later(lambda: self.cloud.image.delete_image(made.id))
        return made

    def image_of(self, volume: Any, disk_format: str = "raw") -> Any:
        """Make an image of a volume and give it once it is active."""
        answer = self.block.upload_volume_to_image(
            volume, unique("image"), disk_format=disk_format, container_format="bare", force=True
        )
        own = answer["image_id"]
        self.later(lambda: self.cloud.image.delete_image(own))
        until(lambda: self.cloud.image.get_image(own).status == "active", f"image {own}", 120)
        self.settled(volume, "available", "in-use")
        return self.cloud.image.get_image(own)

    def type(self, backend: str | None = "fisk", **extra_specs: str) -> Any:
        """Make a volume type of a back end, or of any."""
        specs = {"volume_backend_name": backend} if backend else {}
        specs |= {key.replace("__", ":"): v for key, v in extra_specs.items()}
        made = self.block.create_type(name=unique("type"), extra_specs=specs)
        self.later(lambda: self.block.delete_type(made.id))
        return made

    def qos(self, kind: Any, consumer: str, **specs: str) -> Any:
        """Make QoS specs of a volume type."""
        made = self.block.create_qos_spec(name=unique("qos"), consumer=consumer, **specs)
        self.later(lambda: self.block.delete_qos_spec(made.id, force=True))
        self.block.associate_qos_spec(made, kind.id)
        return made

    def settled(self, thing: Any, *states: str) -> Any:
        """Wait until a volume, snapshot, group … is in one of the ``states``, and give it as it is then."""
        wanted = states or ("available",)

        def there() -> Any:
            found = thing.fetch(self.block)
            if found.status.startswith("error") and found.status not in wanted:
                raise AssertionError(f"{thing.id} is {found.status}; see the log of cinder-volume")
            return found if found.status in wanted else None

        return until(there, f"{thing.id} {' or '.join(wanted)}", 120)

    def remove_volume(self, own: str) -> None:
        """Delete a volume, in whatever state it is, and wait until it is gone."""
        self.block.delete_volume(own, ignore_missing=True)
        until(lambda: gone(lambda: self.block.get_volume(own)), f"volume {own} gone")

    def remove_snapshot(self, own: str) -> None:
        """Delete a snapshot and wait until it is gone."""
        self.block.delete_snapshot(own, ignore_missing=True)
        until(lambda: gone(lambda: self.block.get_snapshot(own)), f"snapshot {own} gone")

# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes: what is in the Fisk, and what somebody with the key sees."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack.cinder import encryption
from fisk_openstack.labels import Kind
from tests.openstack.cloud import GIB, MIB, Maker, digest_of_file, fisk_of, unique
from tests.openstack.conftest import Later

# The fixed key of ministack: volumes have it as their passphrase.
KEY = "00" * 32
LUKS = b"LUKS\xba\xbe"


@pytest.fixture
def luks(cloud: Connection, later: Later) -> Any:
    """A volume type with LUKS."""
    block = cloud.block_storage
    made = block.create_type(name=unique("luks"), extra_specs={"volume_backend_name": "fisk"})
    block.create_type_encryption(
        made, provider="luks", cipher="aes-xts-plain64", key_size=256, control_location="front-end"
    )
    later(lambda: block.delete_type(made))
    return made


def clear(engine: RemoteEngine, fisk: Fisk, length: int, tmp_path: Path) -> str:
    """Give the hash of the first bytes that somebody with the key sees."""
    key, target = tmp_path / "key", tmp_path / "clear"
    key.write_text(KEY)
    with engine.served(fisk) as uri:
        socket = uri.partition("socket=")[2]
        export = uri.removeprefix("nbd+unix:///").partition("?")[0]
        source = (
            "driver=raw,file.driver=luks,file.key-secret=k,file.file.driver=nbd,"
            f"file.file.server.type=unix,file.file.server.path={socket},file.file.export={export},size={length}"
        )
        secret = f"secret,id=k,format=raw,file={key}"
        subprocess.run(
            ["qemu-img", "convert", "--object", secret, "--image-opts", source, "-O", "raw", target],
            check=True,
        )
    return digest_of_file(target)


def head(engine: RemoteEngine, fisk: Fisk) -> bytes:
    with engine.open_disk(fisk.id) as disk:
        return disk.read(0, len(LUKS))


MOODY = """#!/bin/sh
# Says twice what qemu-img says now and then.
echo >>"$0.calls"
if [ "$(wc -l <"$0.calls")" -le 2 ]; then
    echo "qemu-img: Unable to get accurate CPU usage" >&2
    exit 1
fi
exec /usr/bin/qemu-img "$@"
"""


def test_qemu_that_could_not_tell_how_fast_it_is_is_asked_again(
    engine: RemoteEngine, later: Later, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, secret = tmp_path / "qemu-img", tmp_path / "key"
    program.write_text(MOODY)
    program.chmod(0o755)
    secret.write_text(KEY)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fisk = engine.create(unique("volume"), 4 * MIB)
    later(lambda: engine.delete(fisk.id))
    attached = engine.attach(fisk.id)
    cipher = {"cipher_alg": "aes-256", "cipher_mode": "xts", "ivgen_alg": "plain64"}
    encryption._format(encryption._Key(str(secret), cipher), attached.uris[0], fisk.size)
    engine.detach(attached.id)
    assert head(engine, fisk) == LUKS


def test_empty_volume_has_a_header(make: Maker, engine: RemoteEngine, luks: Any, tmp_path: Path) -> None:
    volume = make.volume(volume_type=luks.name)
    assert volume.is_encrypted
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    assert fisk.size == GIB
    assert head(engine, fisk) == LUKS
    assert engine.usage(fisk.id).referenced < 4 * MIB
    clear(engine, fisk, MIB, tmp_path)  # the key opens it


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_image_becomes_an_encrypted_volume_and_that_an_image(
    make: Maker,
    engine: RemoteEngine,
    luks: Any,
    raw_image: Path,
    qcow2_image: Path,
    tmp_path: Path,
    disk_format: str,
) -> None:
    image = make.image(raw_image if disk_format == "raw" else qcow2_image, disk_format)
    volume = make.volume(volume_type=luks.name, image_id=image.id)
    fisk = fisk_of(engine, Kind.VOLUME, volume.id)
    assert head(engine, fisk) == LUKS
    wanted = digest_of_file(raw_image)
    length = raw_image.stat().st_size
    assert clear(engine, fisk, length, tmp_path) == wanted
    if disk_format == "raw":
        encrypted = make.image_of(volume)
        assert head(engine, fisk_of(engine, Kind.IMAGE, encrypted.id)) == LUKS
        again = make.volume(volume_type=luks.name, image_id=encrypted.id)
        assert clear(engine, fisk_of(engine, Kind.VOLUME, again.id), length, tmp_path) == wanted


def test_image_that_is_too_large(make: Maker, luks: Any, tmp_path: Path) -> None:
    """The header is part of the volume, so what fills a volume does not fit into an encrypted one."""
    file = tmp_path / "full"
    with file.open("wb") as full:
        full.truncate(GIB)
    image = make.image(file)
    volume = make.volume(volume_type=luks.name, image_id=image.id, wait=False)
    make.settled(volume, "error")


def test_clone_and_snapshot_have_the_key(
    make: Maker, engine: RemoteEngine, luks: Any, raw_image: Path, tmp_path: Path
) -> None:
    image = make.image(raw_image)
    volume = make.volume(volume_type=luks.name, image_id=image.id)
    snapshot = make.snapshot(volume)
    of_snapshot = make.volume(snapshot_id=snapshot.id)
    clone = make.volume(source_volume_id=volume.id)
    make.remove_snapshot(snapshot.id)
    make.remove_volume(volume.id)
    wanted = digest_of_file(raw_image)
    length = raw_image.stat().st_size
    for each in (of_snapshot, clone):
        assert clear(engine, fisk_of(engine, Kind.VOLUME, each.id), length, tmp_path) == wanted


def test_backup_of_an_encrypted_volume(
    make: Maker, engine: RemoteEngine, luks: Any, raw_image: Path, tmp_path: Path
) -> None:
    image = make.image(raw_image)
    volume = make.volume(volume_type=luks.name, image_id=image.id)
    backup = make.block.create_backup(volume_id=volume.id, name=unique("backup"))
    make.later(lambda: make.block.delete_backup(backup))
    make.settled(backup)
    restored = make.volume(volume_type=luks.name)
    make.block.restore_backup(backup, restored.id)
    make.settled(restored)
    fisk = fisk_of(engine, Kind.VOLUME, restored.id)
    assert clear(engine, fisk, raw_image.stat().st_size, tmp_path) == digest_of_file(raw_image)

# SPDX-License-Identifier: Apache-2.0
"""Backups that are gone after a test, and volumes whose bytes are known."""

import hashlib
from typing import Any

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.errors import NotFound
from fisk_core.model import Fisk
from fisk_openstack.labels import Kind
from tests.openstack.cloud import PLACE, Maker, fisk_of, gone, next_second, unique, until

FAR = "second"
DIRECTORY = "directory"
PIECE = 4096
BACKUPS = PLACE / "data" / "cinder" / "backups"


def digest(engine: RemoteEngine, fisk: Fisk) -> str:
    """Give a hash of a Fisk's size and content, for which holes need not be read."""
    found = hashlib.sha256(str(fisk.size).encode())
    with engine.reading(fisk) as reader:
        for offset, data in reader.parts():
            for start in range(0, len(data), PIECE):
                part = bytes(data[start : start + PIECE])
                if part.strip(b"\0"):
                    found.update(str(offset + start).encode() + part)
    return found.hexdigest()


class Backups:
    """Makes backups, restores and deletes them through the API."""

    def __init__(self, make: Maker, engine: RemoteEngine) -> None:
        self.make, self.block, self.engine = make, make.block, engine

    def create(self, volume: Any, container: str | None = None, **options: Any) -> Any:
        """Make a backup and give it once it is there; ``incremental``, ``snapshot_id``, ``metadata`` …"""
        options.setdefault("force", False)
        if options.get("incremental"):
            next_second()  # the youngest is taken for its parent
        made = self.block.create_backup(
            volume_id=volume.id,
            name=unique("backup"),
            container=container,
            is_incremental=options.pop("incremental", False),
            **options,
        )
        self.make.later(lambda: self.delete(made))
        return self.make.settled(made)

    def restore(self, backup: Any, volume: Any = None) -> Any:
        """Give the volume a backup was restored to, a new one by default."""
        if volume is None:
            volume = self.make.volume(backup.size)
        self.block.restore_backup(backup, volume.id)
        return self.make.settled(volume)

    def delete(self, backup: Any) -> None:
        """Delete a backup and wait until it is gone."""
        self.block.delete_backup(backup.id, ignore_missing=True)
        until(lambda: gone(lambda: self.block.get_backup(backup.id)), f"backup {backup.id} gone")

    def write(self, volume: Any, offset: int, data: bytes) -> None:
        with self.engine.open_disk(self.fisk(volume).id, writable=True) as disk:
            disk.write(offset, data)

    def zero(self, volume: Any, offset: int, length: int) -> None:
        with self.engine.open_disk(self.fisk(volume).id, writable=True) as disk:
            disk.write_zeroes(offset, length)

    def digest(self, volume: Any) -> str:
        return digest(self.engine, self.fisk(volume))

    def fisk(self, volume: Any) -> Any:
        return fisk_of(self.engine, Kind.VOLUME, volume.id)


@pytest.fixture(scope="session")
def far_pool(engine: RemoteEngine) -> str:
    """A pool that is not the volumes'."""
    try:
        return engine.pool(FAR).name
    except NotFound:
        return engine.create_pool(FAR).name


@pytest.fixture
def backups(make: Maker, engine: RemoteEngine, far_pool: str) -> Backups:
    """Makes backups that are gone after the test."""
    return Backups(make, engine)

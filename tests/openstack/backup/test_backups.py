# SPDX-License-Identifier: Apache-2.0
"""Backups in the volume's pool, in another one, and in a directory: made, restored, deleted in any order."""

import configparser
import random

import pytest
from openstack.exceptions import BadRequestException
from sqlalchemy import create_engine, text

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.backup.conftest import BACKUPS, DIRECTORY, FAR, Backups, digest
from tests.openstack.cloud import MIB, PLACE, Maker, fisk_of

CONTAINERS = [None, FAR, DIRECTORY]
SOME = random.Random(7)


def files(volume: str) -> dict[str, int]:
    """Give the sizes of what a directory holds of a volume."""
    every = (BACKUPS / volume).rglob("*")
    return {str(each): each.stat().st_size for each in every if each.is_file()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_restore_of_a_full_and_of_an_incremental_one(
    make: Maker, backups: Backups, container: str | None
) -> None:
    volume = make.volume()
    backups.write(volume, 3 * MIB + 512, SOME.randbytes(9 * MIB))
    backups.write(volume, 500 * MIB, SOME.randbytes(MIB))
    then = backups.digest(volume)
    full = backups.create(volume, container)
    backups.write(volume, 10 * MIB - 512, SOME.randbytes(5000 * 512))
    backups.zero(volume, 500 * MIB, MIB)
    backups.write(volume, 1023 * MIB, b"the end" * 100)
    now = backups.digest(volume)
    second = backups.create(volume, container, incremental=True)
    assert (full.is_incremental, second.is_incremental) == (False, True)

    assert backups.digest(backups.restore(full)) == then
    assert backups.digest(backups.restore(second)) == now
    backups.write(volume, 0, SOME.randbytes(20 * MIB))
    backups.write(volume, 700 * MIB, SOME.randbytes(MIB))
    assert backups.digest(backups.restore(second, volume)) == now
    assert backups.digest(backups.restore(full, volume)) == then


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_behind_a_backup_in_a_larger_volume_is_zeros(
    make: Maker, backups: Backups, container: str | None
) -> None:
    volume = make.volume()
    backups.write(volume, 5 * MIB, b"kept" * 1000)
    backup = backups.create(volume, container)
    larger = make.volume(2)
    backups.write(larger, 5 * MIB + 100 * 512, b"gone" * 1000)
    backups.write(larger, 1500 * MIB, b"gone" * 1000)
    backups.restore(backup, larger)
    assert backups.fisk(larger).size == 2 << 30
    make.block.extend_volume(volume, 2)
    make.settled(volume)
    assert backups.digest(larger) == backups.digest(volume)


@pytest.mark.parametrize("container", CONTAINERS)
def test_any_backup_can_be_deleted(
    make: Maker, backups: Backups, engine: RemoteEngine, container: str | None
) -> None:
    volume = make.volume()
    taken, digests = [], []
    for turn in range(3):
        backups.write(volume, turn * 20 * MIB, SOME.randbytes(6 * MIB))
        made = backups.create(
            volume, container, incremental=turn > 0, metadata={"independent": "true"} if turn else {}
        )
        taken.append(made)
        digests.append(backups.digest(volume))
    make.remove_volume(volume.id)
    assert all(search(engine, Kind.BASE, each.id) is None for each in taken)
    backups.delete(taken[0])
    assert backups.digest(backups.restore(taken[1])) == digests[1]
    backups.delete(taken[1])
    assert backups.digest(backups.restore(taken[2])) == digests[2]
    backups.delete(taken[2])
    assert not (BACKUPS / volume.id).exists()


def test_backup_that_others_were_made_after_is_kept_by_cinder(make: Maker, backups: Backups) -> None:
    volume = make.volume()
    first = backups.create(volume)
    second = backups.create(volume, incremental=True)
    with pytest.raises(BadRequestException, match="Incremental backups exist"):
        backups.delete(first)
    backups.delete(second)
    backups.delete(first)


def test_nothing_is_copied_in_the_pool_of_the_volume(
    make: Maker, backups: Backups, engine: RemoteEngine
) -> None:
    volume = make.volume()
    backups.write(volume, 0, SOME.randbytes(8 * MIB))
    backup = backups.create(volume)
    kept = fisk_of(engine, Kind.BACKUP, backup.id)
    assert (kept.frozen, kept.role, kept.parent_id) == (True, "backup", backups.fisk(volume).id)
    assert engine.usage(kept.id).exclusive == 0
    assert list(engine.diff(kept.id, backups.fisk(volume).id)) == []
    backups.restore(backup, volume)
    assert list(engine.diff(kept.id, backups.fisk(volume).id)) == []


def test_only_what_has_changed_goes_to_another_pool(
    make: Maker, backups: Backups, engine: RemoteEngine
) -> None:
    volume = make.volume()
    backups.write(volume, 0, SOME.randbytes(40 * MIB))
    first = backups.create(volume, FAR)
    backups.write(volume, 8 * MIB, SOME.randbytes(64 << 10))
    second = backups.create(volume, FAR, incremental=True)
    kept = fisk_of(engine, Kind.BACKUP, second.id)
    assert (kept.pool, kept.frozen) == (FAR, True)
    assert engine.usage(kept.id).exclusive == 64 << 10
    assert search(engine, Kind.BASE, first.id) is None  # the one of the second is enough
    assert search(engine, Kind.BASE, second.id) is not None
    engine.delete(fisk_of(engine, Kind.BASE, second.id).id)  # then they are compared
    backups.write(volume, 30 * MIB, SOME.randbytes(64 << 10))
    third = backups.create(volume, FAR, incremental=True)
    assert engine.usage(fisk_of(engine, Kind.BACKUP, third.id).id).exclusive == 64 << 10
    assert backups.digest(volume) == digest(engine, fisk_of(engine, Kind.BACKUP, third.id))


def test_only_chunks_that_have_changed_go_to_a_directory(make: Maker, backups: Backups) -> None:
    volume = make.volume()
    backups.write(volume, 0, SOME.randbytes(40 * MIB))
    backups.create(volume, DIRECTORY)
    before = files(volume.id)
    assert 10 <= len([each for each in before if "/chunks/" in each]) <= 11
    backups.write(volume, 9 * MIB, b"changed")
    backups.create(volume, DIRECTORY, incremental=True)
    new = files(volume.id).keys() - before.keys()
    assert len([each for each in new if "/chunks/" in each]) == 1


def test_chunk_that_is_damaged_is_not_restored(make: Maker, backups: Backups) -> None:
    volume = make.volume()
    backups.write(volume, 0, SOME.randbytes(MIB))
    backup = backups.create(volume, DIRECTORY)
    (chunk,) = (BACKUPS / volume.id / "chunks").glob("*/*")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    target = make.volume()
    make.block.restore_backup(backup, target.id)
    make.settled(target, "error_restoring")


def test_backup_of_a_snapshot(make: Maker, backups: Backups) -> None:
    volume = make.volume()
    backups.write(volume, 0, b"first" * 100)
    then = backups.digest(volume)
    snapshot = make.snapshot(volume)
    backups.write(volume, 0, b"later" * 100)
    backup = backups.create(volume, snapshot_id=snapshot.id)
    make.remove_snapshot(snapshot.id)
    assert backups.digest(backups.restore(backup)) == then


@pytest.mark.parametrize("container", CONTAINERS)
def test_record_goes_to_another_cloud(make: Maker, backups: Backups, container: str | None) -> None:
    volume = make.volume(metadata={"colour": "blue"})
    backups.write(volume, MIB, b"known" * 100)
    backup = backups.create(volume, container)
    record = make.block.export_backup(backup)["backup-record"]
    # A cloud that does not know of the backup is this one when it has forgotten it: the backup is deleted
    # from the records alone, as a lost database would have it.
    forget(backup.id)
    make.block.post("/backups/import_record", json={"backup-record": record}).raise_for_status()
    imported = make.settled(make.block.get_backup(backup.id))
    restored = backups.restore(imported)
    assert backups.digest(restored) == backups.digest(volume)
    assert restored.fetch(make.block).metadata["colour"] == "blue"


def forget(backup: str) -> None:
    """Remove a backup from Cinder's database, and only from there."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.read(PLACE / "etc" / "cinder" / "cinder.conf")
    with create_engine(found["database"]["connection"]).begin() as database:
        database.execute(text("DELETE FROM backup_metadata WHERE backup_id = :own"), {"own": backup})
        database.execute(text("DELETE FROM backups WHERE id = :own"), {"own": backup})

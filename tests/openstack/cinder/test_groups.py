# SPDX-License-Identifier: Apache-2.0
"""Groups of volumes, and their snapshots at one point in time."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fisk_core.client import RemoteEngine
from fisk_openstack.labels import Kind, search
from tests.openstack.cloud import MIB, Maker, fisk_of, gone, unique, until

SIZE = 16
"""bytes of a mark"""


@pytest.fixture
def kind(make: Maker) -> Any:
    """A group type with consistent snapshots."""
    made = make.block.create_group_type(
        name=unique("consistent"), group_specs={"consistent_group_snapshot_enabled": "<is> True"}
    )
    make.later(lambda: make.block.delete_group_type(made.id))
    return made


def make_group(make: Maker, kind: Any) -> Any:
    (fisk_type,) = [each for each in make.block.types() if each.name == "fisk"]
    made = make.block.create_group(name=unique("group"), group_type=kind.id, volume_types=[fisk_type.id])
    make.later(lambda: remove_group(make, made.id))
    return make.settled(made)


def make_from(make: Maker, **source: str) -> Any:
    """Make a group of another one or its snapshot."""
    body = {"create-from-src": {"name": unique("group"), **source}}
    answer = make.block.post("/groups/action", json=body)
    assert answer.ok, answer.text
    made = make.block.get_group(answer.json()["group"]["id"])
    make.later(lambda: remove_group(make, made.id))
    return make.settled(made)


def remove_group(make: Maker, own: str) -> None:
    if gone(lambda: make.block.get_group(own)):
        return
    make.block.delete_group(own, delete_volumes=True)
    until(lambda: gone(lambda: make.block.get_group(own)), f"group {own} gone")


def members(make: Maker, own: str) -> list[Any]:
    found = [each for each in make.block.volumes(details=True) if each.group_id == own]
    return sorted(found, key=lambda each: each.id)


def mark(engine: RemoteEngine, volume: str, text: bytes) -> None:
    with engine.open_disk(fisk_of(engine, Kind.VOLUME, volume).id, writable=True) as disk:
        disk.write(MIB, text.ljust(SIZE))


def marked(engine: RemoteEngine, kind: Kind, own: str) -> bytes:
    with engine.open_disk(fisk_of(engine, kind, own).id) as disk:
        return disk.read(MIB, SIZE).strip()


@pytest.fixture
def group(make: Maker, kind: Any, engine: RemoteEngine) -> Any:
    """A group of two volumes, marked a and b."""
    made = make_group(make, kind)
    for text in ("a", "b"):
        volume = make.volume(group_id=made.id, volume_type="fisk")
        mark(engine, volume.id, text.encode())
    make.later(lambda: remove_group(make, made.id))  # a member cannot be deleted by itself
    return made


def snapshot_of(make: Maker, group: Any) -> Any:
    made = make.block.create_group_snapshot(group_id=group.id, name=unique("gsnap"))
    make.later(lambda: remove_snapshot(make, made.id))
    return make.settled(made)


def remove_snapshot(make: Maker, own: str) -> None:
    make.block.delete_group_snapshot(own, ignore_missing=True)
    until(lambda: gone(lambda: make.block.get_group_snapshot(own)), f"group snapshot {own} gone")


def snapshots_in(make: Maker, own: str) -> dict[str, str]:
    """Give volume → snapshot of a group snapshot."""
    found = make.block.snapshots(details=True)
    return {each.volume_id: each.id for each in found if each.group_snapshot_id == own}


def test_group_goes_with_its_volumes(make: Maker, group: Any, engine: RemoteEngine) -> None:
    inside = members(make, group.id)
    assert len(inside) == 2
    remove_group(make, group.id)
    assert not any(search(engine, Kind.VOLUME, each.id) for each in inside)


def test_members_come_and_go(make: Maker, group: Any) -> None:
    other = make.volume(volume_type="fisk")
    make.later(lambda: remove_group(make, group.id))
    first = members(make, group.id)[0]
    make.block.update_group(group.id, add_volumes=other.id, remove_volumes=first.id)
    make.settled(group)
    assert other.id in [each.id for each in members(make, group.id)]
    assert first.id not in [each.id for each in members(make, group.id)]


def test_snapshots_of_all_members(make: Maker, group: Any, engine: RemoteEngine) -> None:
    taken = snapshot_of(make, group)
    by_volume = snapshots_in(make, taken.id)
    inside = members(make, group.id)
    assert set(by_volume) == {each.id for each in inside}
    for volume in inside:
        mark(engine, volume.id, b"later")
    assert {marked(engine, Kind.SNAPSHOT, own) for own in by_volume.values()} == {b"a", b"b"}
    remove_snapshot(make, taken.id)
    assert not any(search(engine, Kind.SNAPSHOT, own) for own in by_volume.values())


def test_snapshots_show_one_point_in_time(make: Maker, group: Any, engine: RemoteEngine) -> None:
    first, second = members(make, group.id)
    ending = threading.Event()

    def count() -> None:
        """Write 1, 2, 3 … to the first and then to the second volume."""
        with (
            engine.open_disk(fisk_of(engine, Kind.VOLUME, first.id).id, writable=True) as one,
            engine.open_disk(fisk_of(engine, Kind.VOLUME, second.id).id, writable=True) as two,
        ):
            for number in itertools.count(1):
                for disk in (one, two):
                    disk.write(MIB, str(number).encode().ljust(SIZE))
                if ending.is_set():
                    return

    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count)
        try:
            time.sleep(1)
            taken = [snapshot_of(make, group) for _ in range(3)]
        finally:
            ending.set()
        counting.result()
    last = 0
    for each in taken:
        by_volume = snapshots_in(make, each.id)
        ahead, behind = (int(marked(engine, Kind.SNAPSHOT, by_volume[v.id])) for v in (first, second))
        assert ahead - behind in (0, 1)
        assert ahead > last, "nothing was written between two snapshots"
        last = ahead


def test_group_from_snapshots_which_go_first(make: Maker, group: Any, engine: RemoteEngine) -> None:
    taken = snapshot_of(make, group)
    for volume in members(make, group.id):
        mark(engine, volume.id, b"later")
    made = make_from(make, group_snapshot_id=taken.id)
    remove_snapshot(make, taken.id)
    assert {marked(engine, Kind.VOLUME, each.id) for each in members(make, made.id)} == {b"a", b"b"}


def test_group_from_a_group(make: Maker, group: Any, engine: RemoteEngine) -> None:
    made = make_from(make, source_group_id=group.id)
    remove_group(make, group.id)
    copies = members(make, made.id)
    assert {marked(engine, Kind.VOLUME, each.id) for each in copies} == {b"a", b"b"}
    assert not [each for each in engine.list() if each.name.endswith("-source")]

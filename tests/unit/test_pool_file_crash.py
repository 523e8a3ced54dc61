# SPDX-License-Identifier: Apache-2.0
"""The file pool when a process dies in the middle, when names are foreign, and the order of its syncs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from fisk_core import errors
from fisk_core.pools import Kind, Pool, create_pool

DIE_IN_THE_MIDDLE = """
import json, os, sys
from fisk_core.pools import open_pool
pool = open_pool(json.loads(sys.argv[1]))

def chunks():
    yield b"half of the new"
    os.kill(os.getpid(), 9)

getattr(pool, sys.argv[2])(sys.argv[3], chunks())
"""


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return create_pool("file", "test", {"path": str(tmp_path / "pool")})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(call, path) of each system call that orders durability, in order."""
    made: list[tuple[str, str]] = []

    def record(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recorder(*arguments: object, **named: object) -> object:
            made.append((name, path_of(*arguments)))
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, recorder)

    def of_descriptor(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    record("fsync", of_descriptor)
    record("fdatasync", of_descriptor)
    record("rename", lambda _, to: str(to))
    record("mkdir", lambda path, *_: str(path))
    return made


@pytest.mark.parametrize("verb", ["put_blob", "replace_log"])
def test_process_killed_while_replacing_leaves_the_old_and_something_to_sweep(pool: Pool, verb: str) -> None:
    object_id = str(uuid4())
    name = object_id if verb == "replace_log" else f"maps/{object_id}"
    getattr(pool, verb)(name, [b"old"])
    died = subprocess.run([sys.executable, "-c", DIE_IN_THE_MIDDLE, json.dumps(pool.spec()), verb, name])
    assert died.returncode == -9
    assert [*pool.list_blobs(), *pool.list_devices(Kind.LOG)] == [name]
    if verb == "put_blob":
        assert pool.get_blob(name) == b"old"
    else:
        with pool.open_device(Kind.LOG, name, writable=False) as log:
            assert log.size == 3
    assert [pool.sweep_staging(), pool.sweep_staging()] == [1, 0]


def test_sweeping_never_takes_a_file_from_who_is_writing_it(pool: Pool) -> None:
    names = [f"maps/{uuid4()}" for _ in range(300)]

    def put(name: str) -> None:
        pool.put_blob(name, [name.encode()], durable=False)

    with ThreadPoolExecutor(3) as executor:
        puts = [executor.submit(put, name) for name in names]
        while not all(done.done() for done in puts):
            pool.sweep_staging()
        for done in puts:
            done.result()
    assert [pool.get_blob(name).decode() for name in names] == names


def test_durable_blob_is_synced_then_renamed_then_its_name_is_synced(
    pool: Pool, calls: list[tuple[str, str]]
) -> None:
    name = f"maps/{uuid4()}"
    root = Path(pool.options["path"])
    pool.put_blob(name, [b"x"])
    steps = [("mkdir", f"{root}/blobs/maps"), ("fsync", f"{root}/blobs")]
    assert calls[:2] == steps
    (synced, temporary), *rest = calls[2:]
    assert synced == "fdatasync"
    assert Path(temporary).parent == root / "blobs/maps"
    assert rest == [("rename", f"{root}/blobs/{name}"), ("fsync", f"{root}/blobs/maps")]


def test_blob_that_need_not_be_durable_is_only_renamed(pool: Pool, calls: list[tuple[str, str]]) -> None:
    name, root = f"maps/{uuid4()}", pool.options["path"]
    pool.put_blob(f"maps/{uuid4()}", [b"x"])
    calls.clear()
    pool.put_blob(name, [b"x"], durable=False)
    assert calls == [("rename", f"{root}/blobs/{name}")]
    pool.sync_names()
    assert calls[1:] == [("fsync", f"{root}/blobs/maps")]
    pool.sync_names()
    assert len(calls) == 2


def test_device_name_is_synced_after_the_file_and_below_a_synced_directory(
    pool: Pool, calls: list[tuple[str, str]]
) -> None:
    device_id = str(uuid4())
    folder = f"{pool.options['path']}/layers"
    directory = f"{folder}/{device_id[:2]}"
    pool.create_device(Kind.LAYER, device_id).close()
    assert calls == [("mkdir", directory), ("fsync", folder)]
    calls.clear()
    pool.sync_device_name(Kind.LAYER, device_id)
    assert calls == [("fsync", f"{directory}/{device_id}"), ("fsync", directory)]


def test_removed_names_are_synced_too(pool: Pool, calls: list[tuple[str, str]]) -> None:
    device_id = str(uuid4())
    pool.create_device(Kind.LAYER, device_id).close()
    pool.sync_names()
    calls.clear()
    pool.delete_device(Kind.LAYER, device_id)
    pool.sync_names()
    assert calls == [("fsync", f"{pool.options['path']}/layers/{device_id[:2]}")]


def test_flush_syncs_the_file(pool: Pool, calls: list[tuple[str, str]]) -> None:
    with pool.create_device(Kind.LAYER, str(uuid4())) as layer:
        calls.clear()
        layer.pwritev([b"x"], 0)
        assert calls == []
        layer.flush()
    assert [call for call, _ in calls] == ["fdatasync"]


def test_foreign_files_are_neither_listed_nor_swept(pool: Pool) -> None:
    root = Path(pool.options["path"])
    known = str(uuid4())
    pool.put_blob(f"maps/{known}", [b"x"])
    pool.create_device(Kind.LAYER, known).close()
    foreign = [
        root / "layers" / "README",
        root / "layers" / known[:2] / "notes.txt",
        root / "layers" / known[:2] / f".{known}.swp",
        root / "layers" / "zz" / str(uuid4()),
        root / "blobs" / "README",
        root / "blobs" / "maps" / "core",
        root / "blobs" / "maps" / ".notes.tmp",
        root / "staging" / "mine",
    ]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert list(pool.list_devices(Kind.LAYER)) == [known]
    assert list(pool.list_blobs()) == [f"maps/{known}"]
    assert pool.sweep_staging() == 0
    assert all(file.exists() for file in foreign)


def test_links_in_place_of_files_are_not_followed(pool: Pool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for kind in Kind:
        device_id = str(uuid4())
        pool.create_device(kind, device_id).close()
        path = pool.locate(kind, device_id)
        assert path is not None
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(errors.PoolError, match=device_id):
            pool.open_device(kind, device_id, writable=True)
        with pytest.raises(errors.AlreadyExists):
            pool.create_device(kind, device_id)
    name = f"maps/{uuid4()}"
    pool.put_blob(name, [b"x"])
    blob = Path(pool.options["path"]) / "blobs" / name
    blob.unlink()
    blob.symlink_to(secret)
    with pytest.raises(errors.PoolError, match=name):
        pool.get_blob(name)
    pool.put_blob(name, [b"new"])
    assert (pool.get_blob(name), secret.read_bytes()) == (b"new", b"secret")


def test_device_that_cannot_get_its_size_is_not_left_behind(pool: Pool) -> None:
    device_id = str(uuid4())
    with pytest.raises(errors.LimitExceeded, match=device_id):
        pool.create_device(Kind.LAYER, device_id, 1 << 62)
    assert not pool.exists(Kind.LAYER, device_id)
    with pytest.raises(errors.InvalidValue):
        pool.create_device(Kind.LAYER, device_id, -1)

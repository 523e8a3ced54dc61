# SPDX-License-Identifier: Apache-2.0
"""Access path ``direct``: files assembled by reflink on real file systems, written by others than us."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fisk_core.access import direct, whole
from fisk_core.access.direct import Direct
from fisk_core.blockmap import ends
from fisk_core.engine import Engine, access
from fisk_core.errors import InUse, InvalidValue, PoolError, Unsupported
from fisk_core.model import Fisk
from tests.conftest import ExpectLogs
from tests.engines import MIB
from tests.filesystems import SMALLEST, mounted

SIZE = 16 * MIB
K4 = 4096


BOTH = pytest.mark.parametrize("pool", ["xfs", "btrfs"], indirect=True)
"""where the file system matters"""


@pytest.fixture
def pool(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """The directory of pool ``shared``, on a file system with reflink."""
    fstype = getattr(request, "param", "xfs")
    with mounted(fstype, SMALLEST[fstype], tmp_path) as directory:
        engine.create_pool("shared", "file", {"path": str(directory / "pool")})
        yield directory / "pool"
        engine.settle()


@pytest.fixture
def volume(engine: Engine, pool: Path) -> Fisk:
    """A Fisk of three layers: its first MiB is 1, the second 2 but for one block of 3, the rest holes."""
    fisk = engine.create("volume", SIZE, pool="shared")
    put(engine, "volume", 0, b"\1" * 2 * MIB)
    engine.snapshot("volume", "s1")
    put(engine, "volume", MIB, b"\2" * MIB)
    engine.snapshot("volume", "s2")
    put(engine, "volume", MIB + K4, b"\3" * K4)
    return fisk


CONTENT = b"\1" * MIB + b"\2" * K4 + b"\3" * K4 + b"\2" * (MIB - 2 * K4)


def put(engine: Engine, name: str, offset: int, data: bytes) -> None:
    with engine.open_disk(name, writable=True) as disk:
        disk.write(offset, data)


def get(engine: Engine, name: str, offset: int = 0, length: int = 2 * MIB) -> bytes:
    with engine.open_disk(name) as disk:
        return bytes(disk.read(offset, length))


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b", buffering=0) as opened:
        os.pwrite(opened.fileno(), data, offset)
        os.fsync(opened.fileno())


@contextmanager
def attached(engine: Engine, name: str = "volume") -> Iterator[tuple[Path, dict[str, Any]]]:
    path, fisk = Direct(engine), engine.get(name)
    directory = engine.home.run / "access" / name
    details = path.plan(fisk, None, directory, read_only=fisk.frozen, options={})
    try:
        yield Path(path.connect(details) or ""), details
    finally:
        path.disconnect(details, force=True)
    assert not directory.exists()


def kill_keeper(details: dict[str, Any]) -> None:
    process = int((Path(details["directory"]) / "keeper.pid").read_text().split()[0])
    with open(os.pidfd_open(process), "rb") as pidfd:
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)


def changed(engine: Engine, before: str, after: str) -> list[tuple[int, int]]:
    return [(extent.offset, extent.length) for extent in engine.diff(before, after)]


@BOTH
def test_the_file_is_the_fisk(engine: Engine, volume: Fisk) -> None:
    with attached(engine) as (file, details):
        assert Direct(engine).alive(details)
        assert file.stat().st_size == SIZE
        assert file.read_bytes() == CONTENT + bytes(SIZE - 2 * MIB)
        overwrite(file, 3 * MIB, b"\4" * K4)
        with pytest.raises(InUse):
            put(engine, "volume", 0, b"nobody else writes")
    assert get(engine, "volume") == CONTENT
    assert get(engine, "volume", 3 * MIB, K4) == b"\4" * K4
    assert get(engine, "s1") == b"\1" * 2 * MIB
    put(engine, "volume", 0, b"\5" * K4)
    assert get(engine, "volume", 0, 2 * K4) == b"\5" * K4 + b"\1" * K4
    assert engine.check().ok


@BOTH
def test_no_space_is_taken_and_only_changes_are_owned(engine: Engine, volume: Fisk) -> None:
    engine.snapshot("volume", "before")
    with attached(engine) as (file, _):
        overwrite(file, MIB, b"\6" * 2 * K4)
        subprocess.run(["fallocate", "--punch-hole", "-o", "0", "-l", str(K4), file], check=True)
    assert changed(engine, "before", "volume") == [(0, K4), (MIB, 2 * K4)]
    assert engine.usage("volume").exclusive == 2 * K4


@BOTH
def test_snapshots_while_attached(engine: Engine, volume: Fisk) -> None:
    with attached(engine) as (file, _):
        with file.open("r+b", buffering=0) as opened:  # kept open, as a hypervisor does
            for number in range(3):
                os.pwrite(opened.fileno(), bytes([10 + number]) * K4, number * K4)
                engine.snapshot("volume", f"t{number}")
            os.pwrite(opened.fileno(), b"\x0d" * K4, 3 * K4)
        assert file.read_bytes()[: 4 * K4] == b"".join(bytes([10 + n]) * K4 for n in range(4))
    for number in range(3):
        wanted = b"".join(bytes([10 + n]) * K4 for n in range(number + 1))
        assert get(engine, f"t{number}", 0, 4 * K4) == wanted.ljust(4 * K4, b"\1")
    assert changed(engine, "t0", "t1") == [(K4, K4)]
    assert changed(engine, "t2", "volume") == [(3 * K4, K4)]
    engine.settle()
    assert engine.check().ok
    engine.delete("t1", "s1", "s2")
    engine.settle()
    assert get(engine, "volume", 0, 4 * K4) == b"".join(bytes([10 + n]) * K4 for n in range(4))


def test_growing_while_attached(engine: Engine, volume: Fisk) -> None:
    with attached(engine) as (file, _):
        engine.resize("volume", 2 * SIZE)
        assert file.stat().st_size == 2 * SIZE
        overwrite(file, 2 * SIZE - K4, b"\7" * K4)
        with pytest.raises(InUse, match="detach"):
            engine.resize("volume", SIZE, shrink=True)
        with pytest.raises(InUse, match="detach"):
            engine.revert("volume", "s1")
    assert get(engine, "volume", 2 * SIZE - K4, K4) == b"\7" * K4
    assert get(engine, "volume") == CONTENT


def test_a_keeper_that_was_killed(engine: Engine, volume: Fisk) -> None:
    path = Direct(engine)
    with attached(engine) as (file, details), file.open("r+b", buffering=0) as opened:
        kill_keeper(details)
        while path.alive(details):
            os.sched_yield()
        os.pwrite(opened.fileno(), b"\7" * K4, 0)
        with pytest.raises(InUse, match="direct"):
            put(engine, "volume", 0, b"the file is still in use")
        with pytest.raises(InUse, match="direct"):
            engine.snapshot("volume", "not-now")
        assert path.connect(details) == str(file)
        engine.snapshot("volume", "now")
        os.pwrite(opened.fileno(), b"\x08" * K4, 0)
    assert get(engine, "now", 0, K4) == b"\7" * K4
    assert get(engine, "volume", 0, K4) == b"\x08" * K4


@pytest.mark.parametrize("step", range(3))
def test_interrupted_snapshots(
    engine: Engine, volume: Fisk, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Continuing in a new period may be interrupted between any two steps, and be done again."""
    pool = engine.open_pool("shared")
    old, new = engine.get("volume").map_id, engine.create("following", SIZE, pool="shared").map_id
    put(engine, "following", 0, b"x")

    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    for name, broken in (("own_all", step == 0), ("_replace_by_clone", step == 1)):
        if broken:
            monkeypatch.setattr(whole, name, die)
    inode = whole.path_of(pool, old).stat().st_ino
    pool.replace_log(new, [_bare_header(pool, new, old)])
    pool.delete_blob(ends.name_of(new))  # of the log that was there before
    with engine.making():
        if step < 2:
            with pytest.raises(Died):
                whole.continue_in(pool, old, new, SIZE, lambda _: None)
            monkeypatch.undo()
        for _ in range(2):
            whole.continue_in(pool, old, new, SIZE, lambda _: None)
    assert whole.path_of(pool, new).stat().st_ino == inode
    assert whole.path_of(pool, old).stat().st_ino != inode
    assert whole.path_of(pool, old).read_bytes() == whole.path_of(pool, new).read_bytes()
    assert whole.owns_something(pool, new)


def _bare_header(pool: Any, period: str, base: str) -> bytes:
    from dataclasses import replace

    from fisk_core.blockmap import read_log_header
    from fisk_core.blockmap.log import frame

    header = replace(read_log_header(pool, period), base_id=base, base_size=SIZE)
    return frame(header.pack(), 0, 0)


@BOTH
def test_frozen_fisks_are_read(engine: Engine, volume: Fisk) -> None:
    with attached(engine, "s2") as (file, details):
        assert file.read_bytes()[: 2 * MIB] == b"\1" * MIB + b"\2" * MIB
        assert Direct(engine).connect(details) == str(file)
        kill_keeper(details)
        while Direct(engine).alive(details):
            os.sched_yield()
        Direct(engine).connect(details)
        assert file.read_bytes()[:MIB] == b"\1" * MIB


@BOTH
def test_a_file_that_is_open_is_refused(engine: Engine, volume: Fisk) -> None:
    with attached(engine) as (file, details):
        with file.open("rb"), pytest.raises(InUse, match="is open"):
            Direct(engine).disconnect(details)
        assert Direct(engine).alive(details)
        Direct(engine).disconnect(details)
        Direct(engine).disconnect(details)


def test_deleting_by_force(engine: Engine, volume: Fisk) -> None:
    with attached(engine):
        with pytest.raises(InUse):
            engine.delete("volume")
        engine.delete("volume", force=True)
    assert not engine.home.direct(volume.id).exists()


@BOTH
def test_a_file_system_in_the_file(engine: Engine, pool: Path, tmp_path: Path) -> None:
    engine.create("disk", 64 * MIB, pool="shared")
    with attached(engine, "disk") as (file, _):
        subprocess.run(["mkfs.ext4", "-q", file], check=True)
        engine.snapshot("disk", "formatted")
    for name in ("disk", "formatted"):
        copy = tmp_path / name
        engine.download(name, str(copy))
        subprocess.run(["fsck.ext4", "-f", "-n", copy], check=True, capture_output=True)


def test_refusals(engine: Engine, volume: Fisk) -> None:
    path = Direct(engine)
    for fisk, read_only in ((engine.get("volume"), True), (engine.get("s1"), False)):
        with pytest.raises(InvalidValue, match="read-only"):
            path.plan(fisk, None, Path("/x"), read_only=read_only, options={})
    small = engine.create("small", MIB, block_size=512, page_size=2048, pool="shared")
    with pytest.raises(InvalidValue, match="blocks"):
        path.plan(small, None, Path("/x"), read_only=False, options={})


def test_a_pool_without_reflink(engine: Engine, tmp_path: Path) -> None:
    with mounted("ext4", SMALLEST["ext4"], tmp_path) as directory:
        engine.create_pool("plain", "file", {"path": str(directory / "pool")})
        fisk = engine.create("disk", MIB, pool="plain")
        with pytest.raises(Unsupported, match="reflink"):
            Direct(engine).plan(fisk, None, Path("/x"), read_only=False, options={})
        engine.settle()


@pytest.fixture
def interrupted(engine: Engine, volume: Fisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Any]]:
    """A direct attachment whose keeper died in a snapshot: the catalog is ahead of the file."""

    def die(*_: object) -> None:
        raise PoolError("the engine died")

    with attached(engine) as (file, details):
        overwrite(file, 0, b"\7" * K4)
        with monkeypatch.context() as patched:
            patched.setattr(access, "tell_to_switch", die)
            with pytest.raises(PoolError, match="died"):
                engine.snapshot("volume", "never")
        kill_keeper(details)
        while Direct(engine).alive(details):
            os.sched_yield()
        yield file, details


@BOTH
def test_an_interrupted_snapshot_is_finished_by_the_next_keeper(
    engine: Engine, interrupted: tuple[Path, Any], expect_logs: ExpectLogs
) -> None:
    expect_logs("interrupted snapshot")
    file, details = interrupted
    overwrite(file, K4, b"\7" * K4)
    Direct(engine).connect(details)
    engine.snapshot("volume", "next")
    overwrite(file, 2 * K4, b"\7" * K4)
    Direct(engine).disconnect(details)
    assert get(engine, "volume", 0, 4 * K4) == b"\7" * 3 * K4 + b"\1" * K4
    assert get(engine, "next", 0, 4 * K4) == b"\7" * 2 * K4 + b"\1" * 2 * K4
    assert changed(engine, "next", "volume") == [(2 * K4, K4)]
    engine.settle()
    assert engine.check().ok


def test_an_interrupted_snapshot_is_finished_by_detaching(
    engine: Engine, interrupted: tuple[Path, Any], expect_logs: ExpectLogs
) -> None:
    expect_logs("interrupted snapshot")
    file, details = interrupted
    overwrite(file, K4, b"\7" * K4)
    Direct(engine).disconnect(details)
    put(engine, "volume", 2 * K4, b"\x08" * K4)
    assert get(engine, "volume", 0, 4 * K4) == b"\7" * 2 * K4 + b"\x08" * K4 + b"\1" * K4
    engine.settle()
    assert engine.check().ok


def test_attaching_that_was_interrupted(
    engine: Engine, volume: Fisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the mark is there it is a Fisk like any other."""

    def die(*_: object) -> None:
        raise PoolError("died")

    path, directory = Direct(engine), engine.home.run / "a"
    details = path.plan(volume, None, directory, read_only=False, options={})
    with monkeypatch.context() as patched:
        patched.setattr(direct, "_write_mark", die)
        with pytest.raises(PoolError, match="died"):
            path.connect(details)
    assert get(engine, "volume") == CONTENT
    put(engine, "volume", 0, b"\7" * K4)
    file = Path(path.connect(details) or "")
    assert file.read_bytes()[: 2 * MIB] == b"\7" * K4 + CONTENT[K4:]
    path.disconnect(details)
    assert not directory.exists()

# SPDX-License-Identifier: Apache-2.0
"""Snapshots of several Fisks, one of them a file that others write: of one moment, and all or nothing."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fisk_core import locks
from fisk_core.access import whole
from fisk_core.engine import Engine, access
from fisk_core.errors import InUse, PoolError
from fisk_core.services import collector
from fisk_core.supervision import Supervisor
from tests.conftest import ExpectLogs
from tests.engines import MIB
from tests.filesystems import SMALLEST, mounted
from tests.supervisors import connected, supervising

SIZE = 16 * MIB
K4 = 4096


@pytest.fixture
def disks(engine: Engine, tmp_path: Path) -> Iterator[Supervisor]:
    """A Fisk ``file`` on a file system with reflink, a Fisk ``disk`` elsewhere, and a supervisor."""
    with mounted("xfs", SMALLEST["xfs"], tmp_path) as directory:
        engine.create_pool("shared", "file", {"path": str(directory / "pool")})
        engine.create("file", SIZE, pool="shared")
        engine.create("disk", SIZE)
        with supervising(engine) as supervisor:
            yield supervisor
            for attachment in supervisor.attachments():
                supervisor.detach(attachment.id, force=True)
        engine.settle()


@contextmanager
def opened(supervisor: Supervisor) -> Iterator[tuple[int, Any]]:
    """Give the file, open, and a client of the disk; both are detached at the end."""
    file, disk = supervisor.attach("file", access="direct"), supervisor.attach("disk")
    with connected(disk) as client:
        fd = os.open(file.path or "", os.O_RDWR)
        try:
            yield fd, client
        finally:
            os.close(fd)
    supervisor.detach(file.id)
    supervisor.detach(disk.id)


def number(engine: Engine, name: str) -> int:
    with engine.open_disk(name) as disk:
        return int.from_bytes(disk.read(0, 8), "big")


def test_it_is_of_one_moment(engine: Engine, disks: Supervisor) -> None:
    """Each number goes to the disk before it goes to the file, and the next one after that."""
    ending, count = threading.Event(), 0

    def write() -> None:
        nonlocal count
        while not ending.is_set():
            count += 1
            client.write(0, count.to_bytes(8, "big"))
            os.pwrite(fd, count.to_bytes(8, "big"), 0)

    with opened(disks) as (fd, client):
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for turn in range(6):
                before = count
                engine.group_snapshot([("file", f"file{turn}"), ("disk", f"disk{turn}")])
                assert count > before or turn == 0, "nobody is kept from writing for long"
        finally:
            ending.set()
            writer.join()
    cuts = [(number(engine, f"disk{turn}"), number(engine, f"file{turn}")) for turn in range(6)]
    assert all(disk - file in (0, 1) for disk, file in cuts), cuts
    assert sorted(cuts) == cuts
    assert cuts[-1][0] > cuts[0][0]
    assert number(engine, "file") == number(engine, "disk") == count
    assert [(each.offset, each.length) for each in engine.diff("file0", "file5")] == [(0, K4)]
    engine.settle()
    assert engine.check().problems == []


@pytest.mark.parametrize(("step", "which"), [("prepare", 0), ("part", 0), ("switch", 2), ("switch", 3)])
def test_one_that_is_interrupted(
    engine: Engine,
    disks: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    expect_logs: ExpectLogs,
    step: str,
    which: int,
) -> None:
    """The engine dies before a step; ``which`` of those of this name."""
    expect_logs("finishing an interrupted snapshot")
    real, lock, left = access.tell_to_switch, threading.Lock(), [which]

    def dying(context: Any, record: Any, now: str = "switch") -> None:
        with lock:
            left[0] -= now == step
            dead = left[0] < 0
        if dead:
            raise PoolError("the engine died")
        real(context, record, now)

    with opened(disks) as (fd, client):
        os.pwrite(fd, b"1" * K4, 0)
        client.write(0, b"1" * K4)
        with monkeypatch.context() as patched:
            patched.setattr(access, "tell_to_switch", dying)
            with pytest.raises(PoolError, match="died"):
                engine.group_snapshot([("file", "never"), ("disk", "ever")])
        assert {fisk.name for fisk in engine.list()} == {"file", "disk"}
        os.pwrite(fd, b"2" * K4, 0)
        client.write(0, b"2" * K4)
        engine.group_snapshot([("file", "fs"), ("disk", "ds")])
        os.pwrite(fd, b"3" * K4, 0)
        client.write(0, b"3" * K4)
    for name, value in (("file", b"3"), ("disk", b"3"), ("fs", b"2"), ("ds", b"2")):
        with engine.open_disk(name) as disk:
            assert disk.read(0, K4) == value * K4
    assert [(each.offset, each.length) for each in engine.diff("fs", "file")] == [(0, K4)]
    engine.settle()
    assert engine.check().problems == []


def test_blocks_are_not_given_back_while_a_log_is_trimmed(
    engine: Engine, disks: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the file is handed out, its layer owns everything: nobody seems to need older blocks."""
    with engine.open_disk("file", writable=True) as disk:
        disk.write(0, b"1" * MIB)
    engine.snapshot("file", "passing")
    attachment = disks.attach("file", access="direct")
    engine.delete("passing")
    engine.settle()
    real = collector._sweep

    def sweep(*arguments: Any) -> None:
        disks.detach(attachment.id)  # which trims the log, between the look at the maps and the punching
        real(*arguments)

    monkeypatch.setattr(whole, "TRIM_SECONDS", 0.0)
    monkeypatch.setattr(collector, "_sweep", sweep)
    assert engine.collect().reclaimed > 0
    with engine.open_disk("file") as disk:
        assert disk.read(0, MIB) == b"1" * MIB
    assert engine.check().problems == []


def test_the_collector_waits_while_a_log_is_trimmed(
    engine: Engine, disks: Supervisor, monkeypatch: Any
) -> None:
    for _ in range(2):
        with engine.open_disk("disk", writable=True) as disk:
            disk.write(0, b"1" * MIB)
        engine.snapshot("disk", "passing")
        engine.delete("passing")
    engine.settle()
    monkeypatch.setattr(collector, "_TRIMMING_SECONDS", 0.0)
    with locks.acquire(engine.home.trimming, shared=True):
        assert engine.collect().skipped
        with pytest.raises(InUse):
            locks.acquire(engine.home.trimming)
    assert not engine.collect().skipped

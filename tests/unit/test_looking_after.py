# SPDX-License-Identifier: Apache-2.0
"""Check, collect and rescan say how far they are, and may be ended wherever they do so."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import Cancelled
from fisk_core.jobs import Runner, task
from fisk_core.model import JobState
from fisk_core.services import collector
from tests.engines import MIB, read

SECONDS = 30
K4 = 4096
SHAPE = {"block_size": K4, "page_size": 4 * K4}


class Ending:
    """Progress that raises at its n-th word."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.told = after, list[tuple[int, int | None]]()

    def __call__(self, done: int, total: int | None) -> None:
        self.told.append((done, total))
        if len(self.told) == self.after:
            raise Cancelled("by the test")


@pytest.fixture
def volumes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Fisks over garbage: of two volumes every second block was overwritten since a snapshot that is gone.

    Layers have several segments, and are looked at one by one.
    """
    monkeypatch.setattr(collector, "_LAYERS_AT_ONCE", 1)
    content = {}
    for name in ("one", "two"):
        engine.create(name, 64 * MIB, **SHAPE)
        data = bytearray(os.urandom(MIB))
        for at in (0, 40 * MIB):
            with engine.open_disk(name, writable=True) as disk:
                disk.write(at, data)
        engine.snapshot(name, f"{name}.gone")
        with engine.open_disk(name, writable=True) as disk:
            for block in range(0, MIB, 2 * K4):
                disk.write(block, b"n" * K4)
                data[block : block + K4] = b"n" * K4
        engine.delete(f"{name}.gone")
        content[name] = bytes(data)
    engine.settle()
    return content


def require_rising(told: list[tuple[int, int | None]], least: int) -> None:
    assert len(told) >= least
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(total is not None and done <= total for done, total in told)
    assert told[-1][0] == told[-1][1]


def test_collect(engine: Engine, volumes: dict[str, bytes]) -> None:
    whole = Ending()
    wanted = engine.collect(dry_run=True, progress=whole)
    require_rising(whole.told, 4)
    given_back = 0
    for after in range(1, len(whole.told) + 1):
        before = sum(path.stat().st_blocks for path in layers(engine))
        with suppress(Cancelled):
            engine.collect(progress=Ending(after))
        given_back += 512 * (before - sum(path.stat().st_blocks for path in layers(engine)))
        assert engine.check().problems == []
    # A file system takes some blocks itself for a file with many holes.
    assert wanted.reclaimed - 16 * K4 <= given_back <= wanted.reclaimed
    assert engine.collect().reclaimed == 0
    for name, data in volumes.items():
        assert read(engine, name, 0, MIB) == data


def layers(engine: Engine) -> list[Path]:
    return [path for path in (engine.home.pool("default") / "layers").rglob("*") if path.is_file()]


def test_check(engine: Engine, volumes: dict[str, bytes]) -> None:
    whole = Ending()
    assert engine.check(progress=whole).problems == []
    require_rising(whole.told, 20)
    for after in (1, len(whole.told) // 2, len(whole.told)):
        with pytest.raises(Cancelled):
            engine.check(repair=True, progress=Ending(after))


def test_check_that_repairs(engine: Engine, volumes: dict[str, bytes]) -> None:
    """Ended between two repairs, the first stays and the rest is for the next time."""
    folder = engine.home.pool("default") / "blobs" / "fisks"
    for path in folder.iterdir():
        path.unlink()  # two warnings, each with a repair
    looked = Ending()
    assert len(engine.check(progress=looked).problems) == 2
    # It looks once, as nothing changes meanwhile; the next word is of the first repair.
    with pytest.raises(Cancelled):
        engine.check(repair=True, progress=Ending(len(looked.told) + 1))
    assert len(engine.check().problems) == 1
    mended = Ending()
    engine.check(repair=True, progress=mended)
    require_rising(mended.told, 20)
    assert engine.check().problems == []


def test_rescan(engine: Engine, volumes: dict[str, bytes], home: Path) -> None:
    path = str(engine.home.pool("default"))
    engine.close()
    with Engine.open(home / "other") as other:
        whole = Ending()
        with pytest.raises(Cancelled):
            other.rescan("lost", options={"path": path}, progress=Ending(3))
        assert other.pools() == []
        assert other.list() == []
        assert sorted(other.rescan("lost", options={"path": path}, progress=whole).fisks) == ["one", "two"]
        require_rising(whole.told, 4)
        for name, data in volumes.items():
            assert read(other, name, 0, MIB) == data
        assert other.check().errors == []


@pytest.mark.parametrize(
    ("kind", "arguments"), [("check", {}), ("collect", {}), ("rescan", {"pool": "default", "force": True})]
)
def test_jobs_are_cancelled_on_the_way(
    engine: Engine,
    volumes: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    arguments: dict[str, object],
) -> None:
    jobs = Runner(engine, "here")
    job = jobs.submit(kind, arguments)
    real, told = task.Task.progress, list[int]()

    def progress(work: task.Task, done: int, total: int | None) -> None:
        told.append(done)
        if len(told) == 3:
            jobs.cancel(work.job.id)
        real(work, done, total)

    monkeypatch.setattr(task.Task, "progress", progress)
    jobs.start()
    try:
        ended = jobs.wait(job.id, SECONDS)
    finally:
        jobs.stop()
    assert ended.state is JobState.CANCELLED
    assert len(told) == 3
    assert ended.total is not None
    assert 0 < ended.done < ended.total
    assert engine.check().problems == []

# SPDX-License-Identifier: Apache-2.0
"""Moving Fisks between pools: unused, frozen, served while a client writes, and killed on the way."""

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine, moving
from fisk_core.errors import Cancelled, InUse, NotFound, PoolError
from fisk_core.jobs import Runner
from fisk_core.model import JobState
from fisk_core.services import events, readers, sweep
from fisk_core.services.moving import Copier
from tests.engines import BLOCK, MIB, TINY, make_volume, paths_in, read, serving, write


@pytest.fixture(autouse=True)
def other_pool(engine):
    engine.create_pool("other")


def whole(engine, ref):
    return read(engine, ref, 0, engine.get(ref).size)


def is_clean(engine):
    """Nothing is left of a move but the Fisk."""
    engine.settle()
    assert engine.check().problems == []
    with engine.catalog.read() as conn:
        names = conn.exec_driver_sql("SELECT name FROM fisks").scalars().all()
    return not any(name.startswith("move+") for name in names)


def files_in(engine, pool):
    path = engine.home.pool(pool)
    return {kind: paths_in(path, kind) for kind in ("layers", "logs", "blobs/maps", "blobs/fisks")}


# Unused


def test_move_an_unused_volume(engine):
    data = os.urandom(MIB // 2)
    made = make_volume(engine, content=data)
    write(engine, "volume", MIB - 3, b"end")
    moved = engine.move("volume", "other")
    assert (moved.id, moved.pool, moved.size) == (made.id, "other", MIB)
    assert whole(engine, "volume") == data.ljust(MIB - 3, b"\0") + b"end"
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())
    write(engine, "volume", 5, b"new")
    assert read(engine, "volume", 5, 3) == b"new"
    (event,) = [each for each in events.read(engine, 0) if each.kind == "fisk.moved"]
    assert (event.fisk_id, event.data) == (made.id, {"pool": "other"})
    assert is_clean(engine)


def test_one_that_was_never_written(engine):
    make_volume(engine)
    assert engine.move("volume", "other").pool == "other"
    assert whole(engine, "volume") == bytes(MIB)
    assert is_clean(engine)


def test_in_its_own_pool_nothing_happens(engine):
    make_volume(engine, content=b"x")
    version = engine.catalog.version()
    assert engine.move("volume", "default").pool == "default"
    assert engine.catalog.version() == version


def test_to_nowhere(engine):
    make_volume(engine)
    with pytest.raises(NotFound):
        engine.move("volume", "nowhere")
    with pytest.raises(NotFound):
        engine.move("nobody", "other")


def test_snapshots_and_clones_stay_and_are_whole(engine):
    make_volume(engine, content=b"one" * BLOCK)
    engine.snapshot("volume", "snap")
    engine.clone("snap", "clone")
    write(engine, "volume", 0, b"two")
    before = {ref: whole(engine, ref) for ref in ("volume", "snap", "clone")}
    engine.move("volume", "other")
    assert {ref: whole(engine, ref) for ref in before} == before
    assert [engine.get(ref).pool for ref in before] == ["other", "default", "default"]
    assert is_clean(engine)
    engine.move("snap", "other")
    engine.move("clone", "other")
    assert {ref: whole(engine, ref) for ref in before} == before
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())


def test_there_and_back(engine):
    make_volume(engine, content=b"x" * 9999)
    engine.snapshot("volume", "snap")
    before = whole(engine, "volume")
    for pool in ("other", "default", "other"):
        engine.move("volume", pool)
        assert whole(engine, "volume") == before
        write(engine, "volume", 0, b"x")
        assert is_clean(engine)


def test_a_frozen_fisk_keeps_its_clones(engine):
    make_volume(engine, content=b"golden")
    engine.set("volume", frozen=True)
    engine.clone("volume", "clone", count=3)
    engine.move("volume", "other")
    assert engine.get("volume").frozen
    assert {read(engine, ref, 0, 6) for ref in ("volume", "clone-1", "clone-3")} == {b"golden"}
    engine.delete("volume")
    assert read(engine, "clone-2", 0, 6) == b"golden"
    assert is_clean(engine)


@pytest.mark.parametrize("frozen", [True, False])
def test_one_that_is_being_read(engine, frozen):
    """Readers go on with what they opened; it goes when they are gone."""
    data = os.urandom(MIB)
    made = make_volume(engine, content=data[:BLOCK])
    engine.snapshot("volume", "between")
    write(engine, "volume", BLOCK, data[BLOCK:])
    engine.delete("between")
    if frozen:
        engine.set("volume", frozen=True)
    with engine.open_disk("volume") as before:
        assert before.read(0, 1) == data[:1]  # of its layers only the oldest is open
        assert engine.move("volume", "other").pool == "other"
        engine.settle()
        assert sweep.sweep_pins(engine) == 0
        assert engine.check(repair=True).problems == []
        assert before.read(0, MIB) == data
        with engine.open_disk("volume") as after:
            assert after.read(0, MIB) == data
            before.close()
            assert sweep.sweep_pins(engine) == 0  # it may as well be one from before
    assert sweep.sweep_pins(engine) == 1
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())
    assert whole(engine, made.id) == data


def test_a_frozen_one_that_a_worker_serves(engine):
    make_volume(engine, content=b"golden")
    engine.set("volume", frozen=True)
    with readers.serving(engine, engine.get("volume")) as uri, NbdClient.connect(uri) as client:
        engine.move("volume", "other")
        assert bytes(client.read(0, 6)) == b"golden"
    assert sweep.sweep_pins(engine) == 1
    assert is_clean(engine)


def test_one_that_a_process_without_a_worker_writes(engine):
    make_volume(engine, content=b"x")
    with engine.open_disk("volume", writable=True), pytest.raises(InUse):
        engine.move("volume", "other")
    assert is_clean(engine)


def test_what_lay_behind_an_end_stays_gone(engine):
    """The last block of a shrunk Fisk is moved with its zeros, and they show when it grows."""
    engine.create("odd", 8 * 4096)
    write(engine, "odd", 0, b"x" * 8 * 4096)
    engine.resize("odd", 3 * 4096 + 512, shrink=True)
    engine.move("odd", "other")
    engine.resize("odd", 8 * 4096)
    assert whole(engine, "odd") == b"x" * (3 * 4096 + 512) + bytes(5 * 4096 - 512)
    assert is_clean(engine)


def test_two_moves_of_one_fisk(engine, monkeypatch):
    make_volume(engine, content=b"x" * BLOCK)
    real = Copier.bring

    def meanwhile(copier, *arguments):
        monkeypatch.setattr(Copier, "bring", real)
        with pytest.raises(InUse, match="being moved already"):
            engine.move("volume", "other")
        return real(copier, *arguments)

    monkeypatch.setattr(Copier, "bring", meanwhile)
    assert engine.move("volume", "other").pool == "other"
    assert is_clean(engine)


def test_cancelled(engine):
    make_volume(engine, content=b"x" * MIB)

    def stop(done, total):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.move("volume", "other", progress=stop)
    assert engine.get("volume").pool == "default"
    assert whole(engine, "volume") == b"x" * MIB
    assert is_clean(engine)
    assert not any(files_in(engine, "other").values())


def test_deleted_meanwhile(engine, monkeypatch):
    make_volume(engine, content=b"x" * BLOCK)
    real = Copier.bring

    def meanwhile(copier, *arguments):
        monkeypatch.setattr(Copier, "bring", real)
        engine.delete("volume")
        return real(copier, *arguments)

    monkeypatch.setattr(Copier, "bring", meanwhile)
    with pytest.raises(NotFound):
        engine.move("volume", "other")
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())
    assert not any(files_in(engine, "other").values())


def test_changes_while_it_is_copied(engine, monkeypatch):
    """Written, trimmed, snapshotted, reverted, shrunk and grown between two rounds of copying."""
    make_volume(engine, content=b"a" * MIB)
    engine.snapshot("volume", "first")
    monkeypatch.setattr(moving, "SMALL", 0)
    real, steps = Copier.bring, []

    def one():
        write(engine, "volume", 100, b"b" * 1000)
        with engine.open_disk("volume", writable=True) as disk:
            disk.trim(BLOCK * 20, BLOCK * 5)

    def two():
        engine.resize("volume", 100 * BLOCK, shrink=True)
        engine.resize("volume", 2 * MIB)
        engine.snapshot("volume", "second")
        engine.settle()

    def three():
        engine.revert("volume", "first")
        engine.delete("first")
        write(engine, "volume", 0, b"c")

    steps = [one, two, three]

    def between(copier, *arguments):
        copied = real(copier, *arguments)
        if steps:
            steps.pop(0)()
        return copied

    monkeypatch.setattr(Copier, "bring", between)
    assert engine.move("volume", "other").size == MIB
    assert whole(engine, "volume") == b"c" + b"a" * (MIB - 1)
    assert whole(engine, "second")[100:1100] == b"b" * 1000
    assert is_clean(engine)


@settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_was_written(engine, data):
    """Any history of writes, zeros, snapshots and sizes reads the same there, also when it grows."""
    engine.delete(*[fisk.id for fisk in engine.list()])
    size = 64 * BLOCK
    engine.create("v", size, **TINY)
    expected = bytearray(size)
    for number in range(data.draw(st.integers(1, 5))):
        offset = data.draw(st.integers(0, len(expected) - 1))
        length = data.draw(st.integers(1, min(8 * BLOCK, len(expected) - offset)))
        what = data.draw(st.sampled_from(["write", "zero", "snapshot", "shrink", "grow"]))
        if what == "write":
            write(engine, "v", offset, bytes([number + 1]) * length)
            expected[offset : offset + length] = bytes([number + 1]) * length
        elif what == "zero":
            with engine.open_disk("v", writable=True) as disk:
                disk.write_zeroes(offset, length)
            expected[offset : offset + length] = bytes(length)
        elif what == "snapshot":
            engine.snapshot("v", f"s{number}")
        elif what == "shrink":
            del expected[max(BLOCK, offset // BLOCK * BLOCK) :]
            engine.resize("v", len(expected), shrink=True)
        else:
            expected.extend(bytes(3 * BLOCK))
            engine.resize("v", len(expected))
    for pool in ("other", "default"):
        engine.move("v", pool)
        assert whole(engine, "v") == expected
    engine.resize("v", len(expected) + 4 * BLOCK)
    assert whole(engine, "v") == expected + bytes(4 * BLOCK)
    assert engine.check().problems == []


# Served


def test_a_served_volume(engine):
    make_volume(engine, content=b"old" * 1000)
    with serving(engine, "volume") as (_, client):
        client.write(0, b"NEW")
        engine.move("volume", "other")
        assert bytes(client.read(0, 6)) == b"NEWold"
        client.write(6, b"after")
        client.flush()
        engine.snapshot("volume", "snap")
        assert engine.get("snap").pool == "other"
        assert is_clean(engine)
        assert not any(files_in(engine, "default").values())
    assert read(engine, "volume", 0, 11) == b"NEWoldafter"
    assert is_clean(engine)


def test_a_client_that_writes_all_the_time(engine):
    """What it reads back is what it wrote, before, during and after two moves."""
    make_volume(engine, size=4 * MIB, content=b"z" * MIB)
    stop, failures, turns = threading.Event(), [], [0]

    with serving(engine, "volume") as (_, client):
        expected = {}

        def work():
            dice = random.Random(1)
            while not stop.is_set():
                block, turns[0] = dice.randrange(2 * MIB // BLOCK), turns[0] + 1
                if block in expected and bytes(client.read(block * BLOCK, 8)) != expected[block]:
                    failures.append(block)
                expected[block] = turns[0].to_bytes(8, "big")
                client.write(block * BLOCK, expected[block])
                if not turns[0] % 50:
                    client.flush()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for pool in ("other", "default"):
                before = turns[0]
                engine.move("volume", pool)
                assert turns[0] > before
        finally:
            stop.set()
            thread.join()
        assert failures == []
        assert all(bytes(client.read(block * BLOCK, 8)) == data for block, data in expected.items())
    left = whole(engine, "volume")
    assert all(left.startswith(data, block * BLOCK) for block, data in expected.items())
    assert is_clean(engine)


def test_a_pause_that_ends_too_early(engine, monkeypatch):
    """The worker does not switch any more, and nothing that was written since is lost."""
    make_volume(engine, content=b"x")
    with serving(engine, "volume") as (_, client):
        real = moving._Move._tell

        def late(move, record, following):
            moving.access.call(engine, record, {"op": "resume"})
            client.write(0, b"y")
            client.flush()
            real(move, record, following)

        monkeypatch.setattr(moving._Move, "_tell", late)
        with pytest.raises(InUse, match="the pause is over"):
            engine.move("volume", "other")
        assert bytes(client.read(0, 1)) == b"y"
    assert engine.get("volume").pool == "default"
    assert read(engine, "volume", 0, 1) == b"y"
    assert is_clean(engine)
    assert not any(files_in(engine, "other").values())


def test_one_written_faster_than_it_can_be_moved(engine, monkeypatch):
    make_volume(engine, content=b"x")
    monkeypatch.setattr(moving, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(moving, "MAX_ROUNDS", 3)
    with serving(engine, "volume") as (_, client):
        with pytest.raises(InUse, match="faster than it can be moved"):
            engine.move("volume", "other")
        client.write(0, b"goes on")
    assert read(engine, "volume", 0, 7) == b"goes on"
    assert is_clean(engine)


# Killed

_CHILD = """
import os, signal, sys
from pathlib import Path
from fisk_core.engine import Engine, building, moving, replacing
from fisk_core.services.moving import Copier

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(owner, name):
    real = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (real(*a, **k), die()))

phase = sys.argv[2]
if phase == "pinned": moving.building.begin = die
if phase == "begun": Copier.bring = die
if phase == "copied": after(Copier, "bring")
if phase == "paused": moving._Move._prepare = die; moving._Move._repoint = die
if phase == "sealed": after(building.Building, "seal")
if phase == "named": after(building.Building, "given")
if phase == "switched": moving.replacing.forward = die
if phase == "forward": after(replacing, "forward")
if phase == "done": moving._Pin.release = die
with Engine.open(Path(sys.argv[1])) as engine:
    engine.move("volume", "other")
"""
OFFLINE = ["pinned", "begun", "copied", "paused", "sealed", "named", "done"]


def killed(engine, phase):
    """Let another process move the volume and die by SIGKILL on the way."""
    command = [sys.executable, "-c", _CHILD, str(engine.home.path), phase]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL


@pytest.mark.parametrize("phase", OFFLINE)
def test_killed_while_moving_an_unused_one(engine, phase):
    make_volume(engine, content=b"x" * 5000)
    before = whole(engine, "volume")
    killed(engine, phase)
    assert whole(engine, "volume") == before
    assert engine.move("volume", "other").pool == "other"
    assert whole(engine, "volume") == before
    engine.check(repair=True)
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())


@pytest.mark.parametrize(
    ("phase", "worker"),
    [
        ("copied", "lives"),
        ("paused", "dies"),
        ("sealed", "lives"),
        ("named", "lives"),
        ("named", "dies"),
        ("switched", "lives"),
        ("switched", "dies"),
        ("forward", "dies"),
        ("done", "lives"),
    ],
)
def test_killed_while_moving_a_served_one(engine, phase, worker, expect_logs):
    make_volume(engine, content=b"x" * 5000)
    dying = pytest.raises(PoolError, match="status -9") if worker == "dies" else nullcontext()
    with dying, serving(engine, "volume") as (server, client):
        client.write(0, b"flushed")
        client.flush()
        killed(engine, phase)
        moving.access.call(engine, engine.find("volume"), {"op": "resume"})
        client.write(7, b"later")
        client.flush()
        if phase in ("named", "switched"):
            expect_logs("finding out how an interrupted operation ended")
        if worker == "lives":
            engine.finish("volume")
            client.write(12, b"!")
            client.flush()
            assert bytes(client.read(0, 13)) == b"flushedlater!"
        else:
            os.kill(server.pid, signal.SIGKILL)
            with moving.locks.acquire(engine.home.lock(engine.get("volume").id), timeout=30):
                pass
            engine.finish("volume")
    assert read(engine, "volume", 0, 12) == b"flushedlater"
    assert engine.get("volume").pool == ("other" if phase in ("switched", "forward", "done") else "default")
    engine.move("volume", "other")
    assert read(engine, "volume", 0, 12) == b"flushedlater"
    engine.check(repair=True)
    assert is_clean(engine)
    assert not any(files_in(engine, "default").values())


# As a job


def test_as_a_job(engine):
    make_volume(engine, content=b"x" * MIB)
    jobs = Runner(engine, "here")
    with pytest.raises(NotFound):
        jobs.submit("move", {"ref": "volume", "pool": "nowhere"})
    jobs.start()
    try:
        job = jobs.wait(jobs.submit("move", {"ref": "volume", "pool": "other"}).id, 60)
        again = jobs.wait(jobs.submit("move", {"ref": "volume", "pool": "other"}).id, 60)
    finally:
        jobs.stop()
    assert (job.state, job.result["pool"], job.done) == (JobState.DONE, "other", MIB)
    assert again.result == job.result
    assert is_clean(engine)
    with Engine.open(engine.home.path) as reopened:
        assert whole(reopened, "volume") == b"x" * MIB

# SPDX-License-Identifier: Apache-2.0
"""Interleavings that are rare by chance, forced: what is stopped half way, and what happens meanwhile."""

import os
import select
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fisk_core.blockmap import LogHeader, create_log
from fisk_core.dataplane import control
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.zygote import Zygote
from fisk_core.engine import access, opening, replacing
from fisk_core.errors import FiskError, InUse, NotFound, PoolError
from fisk_core.services import collector
from tests.disks import USUAL, frozen, make_pool, make_spec, new_id
from tests.engines import BLOCK, MIB, make_volume, read, serving, write
from tests.gates import Doors, held
from tests.servers import Raw, patched_worker

OLD, NEW = b"1" * BLOCK, b"2" * BLOCK


@pytest.fixture
def aside():
    """Give a function that does something in a thread; it is waited for."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def test_a_write_while_a_snapshot_is_under_way(engine, aside):
    """The rows say the new period, the worker writes the old one: what it takes now is in the snapshot."""
    make_volume(engine, content=OLD * 3)
    with serving(engine, "volume") as (_, client):
        with held(access, "tell_to_switch") as gate:
            taken = aside(engine.snapshot, "volume", "snap")
            gate.wait()
            client.write(BLOCK, NEW)
            client.flush()
        taken.result()
        client.write(2 * BLOCK, NEW)
        assert read(engine, "snap", 0, 3 * BLOCK) == OLD + NEW + OLD
        assert bytes(client.read(0, 3 * BLOCK)) == OLD + NEW + NEW


def test_a_write_after_the_switch_and_before_the_snapshot_is_there(engine, aside):
    make_volume(engine, content=OLD * 2)
    with serving(engine, "volume") as (_, client):
        with held(access, "tell_to_switch", after=True) as gate:
            taken = aside(engine.snapshot, "volume", "snap")
            gate.wait()
            client.write(BLOCK, NEW)
            with pytest.raises(NotFound):
                engine.get("snap")
        taken.result()
        assert read(engine, "snap", 0, 2 * BLOCK) == OLD * 2
        assert bytes(client.read(0, 2 * BLOCK)) == OLD + NEW


def test_a_worker_that_dies_while_a_snapshot_is_under_way(engine, aside, expect_logs):
    """It had acknowledged a write, not flushed; the snapshot fails, and nothing acknowledged is lost."""
    expect_logs("finishing an interrupted snapshot")
    make_volume(engine, content=OLD * 2)
    with ExitStack() as stack:
        worker, client = stack.enter_context(serving(engine, "volume"))
        with held(access, "tell_to_switch") as gate:
            taken = aside(engine.snapshot, "volume", "snap")
            gate.wait()
            client.write(BLOCK, NEW)
            worker._process.kill()
            worker._process.wait()
        with pytest.raises(FiskError):
            taken.result()
        assert read(engine, "volume", 0, 2 * BLOCK) == OLD + NEW
        with pytest.raises(NotFound):
            engine.get("snap")
        with pytest.raises(PoolError, match="status -9"):
            stack.close()


def test_collecting_while_a_snapshot_is_under_way(engine, aside):
    """Nobody points to the period that ends until it is sealed, but the new one is based on it."""
    make_volume(engine, content=OLD * 64)
    engine.snapshot("volume", "first")
    with serving(engine, "volume") as (_, client):
        client.write(0, NEW)
        client.flush()
        engine.delete("first")
        engine.settle()
        with held(access, "tell_to_switch") as gate:
            taken = aside(engine.snapshot, "volume", "snap")
            gate.wait()
            engine.collect()
        taken.result()
        assert read(engine, "snap", 0, 64 * BLOCK) == NEW + OLD * 63
        assert bytes(client.read(0, 64 * BLOCK)) == NEW + OLD * 63


def test_clone_delete_and_overwrite_between_marking_and_punching(engine, aside):
    """The collector has chosen what to punch by maps that are older than all that happens now."""
    make_volume(engine, content=OLD * 64)
    engine.snapshot("volume", "first")
    write(engine, "volume", 0, NEW * 16)
    engine.snapshot("volume", "second")
    engine.delete("first")
    engine.settle()
    with serving(engine, "volume") as (_, client):
        with held(collector, "_sweep") as gate:
            collected = aside(engine.collect)
            gate.wait()
            engine.clone("second", "clone")
            engine.delete("second")
            client.write(16 * BLOCK, NEW * 16)
            client.flush()
            engine.snapshot("volume", "third")
        collected.result()
        engine.collect()
        assert read(engine, "clone", 0, 64 * BLOCK) == NEW * 16 + OLD * 48
        assert read(engine, "third", 0, 64 * BLOCK) == NEW * 32 + OLD * 32
        assert bytes(client.read(0, 64 * BLOCK)) == NEW * 32 + OLD * 32
    engine.settle()
    assert engine.check().problems == []


def test_a_revert_while_the_collector_looks(engine, aside):
    """What was dead when it looked stays dead; what a revert brings back was never dead."""
    make_volume(engine, content=OLD * 8)
    engine.snapshot("volume", "good")
    write(engine, "volume", 0, NEW * 4)
    engine.snapshot("volume", "bad")
    engine.delete("bad")
    engine.settle()
    with serving(engine, "volume") as (_, client):
        with held(collector, "_sweep") as gate:
            collected = aside(engine.collect)
            gate.wait()
            engine.revert("volume", "good")
            assert bytes(client.read(0, 8 * BLOCK)) == OLD * 8
        collected.result()
        assert bytes(client.read(0, 8 * BLOCK)) == OLD * 8
        assert read(engine, "good", 0, 8 * BLOCK) == OLD * 8


def test_deletion_while_the_fisk_is_being_opened(engine, aside):
    """Whoever comes second is refused; nobody reads what is not his."""
    make_volume(engine, content=OLD)
    engine.snapshot("volume", "snap")
    with held(opening, "disk_spec", after=True) as gate:
        found = aside(read, engine, "snap", 0, BLOCK)
        gate.wait()
        with pytest.raises(InUse):
            engine.delete("snap")
    assert found.result() == OLD
    engine.delete("snap")


def test_opening_while_the_fisk_is_being_deleted(engine, aside):
    make_volume(engine, content=OLD)
    engine.snapshot("volume", "snap")
    with held(access, "exclude", after=True) as gate:
        deleted = aside(engine.delete, "snap")
        gate.wait()
        with pytest.raises(InUse):
            read(engine, "snap", 0, BLOCK)
    deleted.result()
    with pytest.raises(NotFound):
        read(engine, "snap", 0, BLOCK)
    assert read(engine, "volume", 0, BLOCK) == OLD


def test_a_snapshot_asked_for_while_a_revert_is_under_way(engine, aside):
    """It waits, and is of what the revert made."""
    make_volume(engine, content=OLD)
    engine.snapshot("volume", "old")
    write(engine, "volume", 0, NEW)
    with serving(engine, "volume"):
        with held(replacing, "forward") as gate:
            reverted = aside(engine.revert, "volume", "old")
            gate.wait()
            begun = threading.Event()

            def snapshot():
                begun.set()
                engine.snapshot("volume", "after")

            taken = aside(snapshot)
            begun.wait()
        reverted.result()
        taken.result()
    assert read(engine, "after", 0, BLOCK) == OLD


@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
def test_a_switch_while_a_flush_is_under_way(tmp_path, dies):
    """The flush made data durable and is about to write the log; the seal of its period comes behind it."""
    pool, doors = make_pool(tmp_path / "pool"), Doors(tmp_path)
    spec = make_spec(pool, MIB, USUAL)
    following = replace(spec, map_id=new_id())
    create_log(pool, LogHeader(following.map_id, spec.map_id, spec.fisk_id, MIB, USUAL))
    patch = doors.before("fisk_core.blockmap.log", "LogWriter", "append")
    path, telling = tmp_path / "nbd", tmp_path / "ctl"
    with (
        patched_worker(spec, path, patch, control=telling) as worker,
        ThreadPoolExecutor() as threads,
        Raw(str(path)) as one,
        Raw(str(path)) as other,
    ):
        assert one.write(0, b"1" * 4096) == 0
        one.send(p.CMD_FLUSH)
        doors.wait()
        switched = threads.submit(control.call, telling, {"op": "switch", "spec": asdict(following)})
        assert other.write(4096, b"2" * 4096) == 0
        control.call(telling, {"op": "status"})
        assert other.write(8192, b"3" * 4096) == 0
        assert not switched.done()
        assert not select.select([one.sock], [], [], 0)[0], "a flush was answered that is not over"
        if not dies:
            doors.open()
            assert one.reply().error == 0
            switched.result()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        if dies:
            with pytest.raises(FiskError):
                switched.result()
            return
    with Disk.open(pool, frozen(spec)) as disk:
        assert disk.read(0, 4096) == b"1" * 4096


def test_a_hand_over_waits_for_the_flush_that_is_under_way(tmp_path):
    """A flush is answered by the worker that began it, before the successor has anything."""
    pool, doors = make_pool(tmp_path / "pool"), Doors(tmp_path)
    spec = make_spec(pool, MIB, USUAL)
    patch = doors.before("fisk_core.blockmap.log", "LogWriter", "append")
    path, telling = tmp_path / "nbd", tmp_path / "ctl"
    with patched_worker(spec, path, patch, control=telling), Raw(str(path)) as raw, Zygote() as zygote:
        with ThreadPoolExecutor() as threads:
            assert raw.write(0, b"1" * 4096) == 0
            raw.send(p.CMD_FLUSH)
            doors.wait()
            succession = threads.submit(zygote.succeed, str(telling))
            control.call(telling, {"op": "status"})
            assert not select.select([raw.sock], [], [], 0)[0], "a flush was answered that is not over"
            doors.open()
            assert raw.reply().error == 0
            successor, _ = succession.result()
        assert raw.get(0, 4096) == b"1" * 4096
        control.call(telling, {"op": "stop"})
        assert zygote.wait(successor) == 0


@pytest.mark.skipif(
    not os.path.isdir("/dev/shm"), reason="needs a file system that cannot tell what is cached"
)
def test_a_write_while_a_thread_reads_the_block(tmp_path):
    """What the thread read may be parts of both: it is read once more where nobody writes meanwhile."""
    doors, path = Doors(tmp_path), tmp_path / "nbd"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        spec = make_spec(make_pool(Path(memory) / "pool"), MIB, USUAL)
        with (
            patched_worker(spec, path, doors.after("fisk_core.dataplane.cold", "fill")),
            Raw(str(path)) as reader,
            Raw(str(path)) as writer,
        ):
            assert writer.write(0, b"1" * 4096) == 0
            reader.send(p.CMD_READ, 0, 4096)
            doors.wait()
            assert writer.write(0, b"2" * 4096) == 0
            doors.open()
            assert reader.reply().data == b"2" * 4096

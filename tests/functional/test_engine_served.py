# SPDX-License-Identifier: Apache-2.0
"""Operations on Fisks while real workers serve them over NBD."""

import random
import threading

import pytest

from fisk_core.catalog import fisks
from fisk_core.dataplane import protocol as p
from fisk_core.engine import Engine, access, freezing, replacing
from fisk_core.errors import InUse, NotFound, PoolError
from tests.engines import BLOCK, MIB, make_volume, read, serving, write
from tests.servers import Raw
from tests.waiting import until


@pytest.fixture
def lazy():
    """No background work unless it is waited for: what a crash left stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fisk_core.engine.background.QUIET_SECONDS", 600.0)
        patch.setattr("fisk_core.engine.background.PATIENCE_SECONDS", 600.0)
        yield


class Crash(BaseException):
    """The engine's process dies here."""


def crash(*_args, **_options):
    raise Crash


def reopened(engine):
    """Give another engine of the same home, as another process has it."""
    return Engine.open(engine.home.path)


# Snapshots and clones


def test_snapshot_under_a_client(engine):
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (_, client):
        client.write(BLOCK, b"flushed or not")
        engine.snapshot("volume", "snap")
        client.write(0, b"new")
        client.flush()
        assert read(engine, "snap", 0, 3) == b"old"
        assert read(engine, "snap", BLOCK, 14) == b"flushed or not"
        assert bytes(client.read(0, 3)) == b"new"
    assert read(engine, "volume", 0, 3) == b"new"
    engine.settle()
    assert read(engine, "volume", 0, 3) == b"new"
    assert engine.check().problems == []


def test_many_snapshots_under_a_client_that_writes_all_the_time(engine):
    make_volume(engine)
    stop = threading.Event()
    with serving(engine, "volume") as (_, client):

        def work():
            number = 0
            while not stop.is_set():
                number += 1
                for block in range(2):  # the second block never runs ahead of the first
                    client.write(block * 100 * BLOCK, number.to_bytes(8, "big"))

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(10):
            engine.snapshot("volume", f"s{number}")
        stop.set()
        thread.join()
    values = []
    for number in range(10):
        first, second = (
            int.from_bytes(read(engine, f"s{number}", block * 100 * BLOCK, 8), "big") for block in range(2)
        )
        assert 0 <= first - second <= 1
        values.append(first)
    assert values == sorted(values)
    assert engine.check().ok


def test_clone_of_a_served_fisk(engine):
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (_, client):
        client.write(3, b"!")
        engine.clone("volume", "clone", count=2)
        client.write(0, b"new")
        assert read(engine, "clone-2", 0, 4) == b"old!"
        write(engine, "clone-1", 0, b"xyz")
        assert bytes(client.read(0, 4)) == b"new!"
    assert engine.check().problems == []


def test_a_group_of_served_and_unserved(engine):
    for name in "abc":
        make_volume(engine, name, content=name.encode())
    with serving(engine, "a") as (_, one), serving(engine, "b") as (_, two):
        one.write(1, b"1")
        two.write(1, b"2")
        engine.group_snapshot([(name, f"{name}-s") for name in "abc"])
        one.write(1, b"?")
        two.write(1, b"?")
        assert [read(engine, f"{name}-s", 0, 2) for name in "abc"] == [b"a1", b"b2", b"c\0"]
    assert engine.check().problems == []


def test_a_group_is_of_one_moment(engine):
    """A client writes n to the first, then n to the second: no group has more in the second."""
    for name in "ab":
        make_volume(engine, name)
    stop = threading.Event()
    with serving(engine, "a") as (_, one), serving(engine, "b") as (_, two):

        def work():
            number = 0
            while not stop.is_set():
                number += 1
                for client in (one, two):
                    client.write(0, number.to_bytes(8, "big"))

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(6):
            engine.group_snapshot([("a", f"a{number}"), ("b", f"b{number}")])
        stop.set()
        thread.join()
    for number in range(6):
        first, second = (int.from_bytes(read(engine, f"{name}{number}", 0, 8), "big") for name in "ab")
        assert 0 <= first - second <= 1


# Resize, revert, delete


def test_growing_under_a_client(engine):
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (worker, client):
        engine.resize("volume", 2 * MIB)
        client.write(0, b"new")
        with type(client).connect(worker.uri) as second:
            second.write(2 * MIB - 3, b"end")
            second.flush()
    assert read(engine, "volume", 2 * MIB - 3, 3) == b"end"


def test_shrinking_under_a_worker(engine):
    make_volume(engine, content=b"x" * MIB)
    with serving(engine, "volume") as (worker, client):
        engine.resize("volume", 64 * BLOCK, shrink=True)
        engine.resize("volume", MIB)
        with type(client).connect(worker.uri) as second:
            assert bytes(second.read(0, MIB)) == b"x" * 64 * BLOCK + bytes(MIB - 64 * BLOCK)
    assert read(engine, "volume", 0, MIB) == b"x" * 64 * BLOCK + bytes(MIB - 64 * BLOCK)
    engine.settle()
    assert engine.check().problems == []


def test_a_large_write_that_is_cut_short_by_shrinking(engine):
    """It fails, with one reply, and what had come of it is there: a client may not rely on either."""
    make_volume(engine, content=b"x" * MIB)
    data = random.Random(1).randbytes(MIB // 2)
    with serving(engine, "volume") as (worker, other), Raw(worker.uri.partition("socket=")[2]) as raw:
        cookie = raw.send(p.CMD_WRITE, MIB // 2, len(data), payload=data[: MIB // 4])
        until(lambda: bytes(other.read(MIB // 2, MIB // 8)) == data[: MIB // 8])
        engine.resize("volume", 7 * MIB // 8, shrink=True)
        raw.sock.sendall(data[MIB // 4 :])
        assert (reply := raw.reply()).error == p.ENOSPC
        assert reply.cookie == cookie
        assert raw.get(MIB // 2, MIB // 8) == data[: MIB // 8]
        assert raw.works()


def test_shrinking_into_a_block_under_a_worker_is_refused(engine):
    """The rest of the block would have to be zeroed beside its writer."""
    engine.create("volume", MIB, block_size=1024, page_size=4096)
    with serving(engine, "volume"), pytest.raises(InUse, match="blocks"):
        engine.resize("volume", 1024 + 512, shrink=True)
    engine.resize("volume", 1024 + 512, shrink=True)


def test_revert_under_a_client(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    with serving(engine, "volume") as (_, client):
        client.write(0, b"new")
        engine.revert("volume", "snap")
        assert bytes(client.read(0, 3)) == b"old"
        client.write(3, b"!")
        client.flush()
    assert read(engine, "volume", 0, 4) == b"old!"
    assert read(engine, "snap", 0, 4) == b"old\0"
    engine.settle()
    assert engine.check().problems == []


def test_delete_of_a_served_fisk_needs_force(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    with serving(engine, "volume") as (worker, _):
        with pytest.raises(InUse):
            engine.delete("volume")
        engine.delete("volume", force=True)
        worker._process.wait(10)
    with pytest.raises(NotFound):
        engine.get("volume")
    assert read(engine, "snap", 0, 3) == b"old"


def test_the_template_goes_while_its_clone_is_served(engine):
    make_volume(engine, content=b"template")
    engine.set("volume", frozen=True)
    engine.clone("volume", "clone")
    with serving(engine, "clone") as (_, client):
        engine.delete("volume")
        engine.settle()
        client.write(0, b"T")
        assert bytes(client.read(0, 8)) == b"Template"


# Crash windows of a snapshot


def test_a_crash_before_the_worker_was_told(engine, lazy, expect_logs, monkeypatch):
    """The worker goes on in the old period; what it flushes there is not lost."""
    expect_logs("finishing an interrupted snapshot")
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (_, client):
        monkeypatch.setattr(access, "tell_to_switch", crash)
        with pytest.raises(Crash):
            engine.snapshot("volume", "snap")
        monkeypatch.undo()
        client.write(0, b"new")
        client.flush()
        with pytest.raises(NotFound):
            engine.get("snap")
        with reopened(engine) as other:
            other.snapshot("volume", "later")
            assert read(other, "later", 0, 3) == b"new"
        client.write(0, b"end")
    assert read(engine, "volume", 0, 3) == b"end"
    assert engine.check().problems == []


def test_a_crash_before_the_worker_was_told_and_the_worker_dies_too(engine, lazy, expect_logs, monkeypatch):
    expect_logs("finishing an interrupted snapshot")
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (worker, client):
        monkeypatch.setattr(access, "tell_to_switch", crash)
        with pytest.raises(Crash):
            engine.snapshot("volume", "snap")
        monkeypatch.undo()
        client.write(0, b"new")
        client.flush()
        worker._process.kill()
        worker._process.wait()
        worker._process.returncode = 0
    write(engine, "volume", 3, b"!")
    assert read(engine, "volume", 0, 4) == b"new!"
    engine.settle()
    assert read(engine, "volume", 0, 4) == b"new!"
    assert engine.check().problems == []


def test_a_crash_after_the_worker_switched(engine, lazy, expect_logs):
    expect_logs("finishing an interrupted snapshot")
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (_, client):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(freezing.Freeze, "record_in", crash)
            with pytest.raises(Crash):
                engine.snapshot("volume", "snap")
        client.write(0, b"new")
        client.flush()
        assert [each.kind for each in engine.check().problems] == ["interrupted"]
        with reopened(engine) as other:
            other.settle()  # the background finds it
            assert other.check().problems == []
        engine.snapshot("volume", "snap")
        client.write(0, b"end")
        assert read(engine, "snap", 0, 3) == b"new"
    assert read(engine, "volume", 0, 3) == b"end"


def test_a_crash_after_the_files_were_made(engine, monkeypatch):
    make_volume(engine, content=b"old")
    with serving(engine, "volume") as (_, client):
        monkeypatch.setattr("fisk_core.catalog.maps.begin_period", crash)
        with pytest.raises(Crash):
            engine.snapshot("volume", "snap")
        monkeypatch.undo()
        client.write(0, b"new")
    assert {each.kind for each in engine.check(repair=True).problems} == {"leak"}
    assert engine.check().problems == []
    assert read(engine, "volume", 0, 3) == b"new"


def test_a_worker_that_cannot_switch_goes_on(engine, lazy, expect_logs, monkeypatch):
    expect_logs("finishing an interrupted snapshot")
    make_volume(engine, content=b"old")

    def refuse(*_):
        raise PoolError("the worker is busy dying")

    with serving(engine, "volume") as (_, client):
        monkeypatch.setattr(access, "tell_to_switch", refuse)
        with pytest.raises(PoolError):
            engine.snapshot("volume", "snap")
        monkeypatch.undo()
        client.write(0, b"new")
    assert read(engine, "volume", 0, 3) == b"new"
    assert engine.check().errors == []


# Crash windows of a revert


def revert_and_crash(engine, monkeypatch, where):
    monkeypatch.setattr(*where, crash)
    with pytest.raises(Crash):
        engine.revert("volume", "snap")
    monkeypatch.undo()


def prepared(engine):
    make_volume(engine, content=b"old")
    engine.snapshot("volume", "snap")
    return serving(engine, "volume")


def test_a_revert_the_worker_never_heard_of_did_not_happen(engine, lazy, expect_logs, monkeypatch):
    expect_logs("finding out how an interrupted operation ended")
    with prepared(engine) as (_, client):
        client.write(0, b"new")
        revert_and_crash(engine, monkeypatch, (access, "tell_to_switch"))
        client.write(3, b"!")
        client.flush()
        engine.set("volume", role="disk")
        engine.snapshot("volume", "later")
        assert read(engine, "later", 0, 4) == b"new!"
    assert read(engine, "volume", 0, 4) == b"new!"
    assert engine.check().problems == []


def test_a_revert_the_worker_made_is_finished(engine, lazy, expect_logs, monkeypatch):
    expect_logs("finding out how an interrupted operation ended")
    with prepared(engine) as (_, client):
        client.write(0, b"new")
        revert_and_crash(engine, monkeypatch, (replacing, "forward"))
        client.write(3, b"!")
        engine.snapshot("volume", "later")
        assert read(engine, "later", 0, 4) == b"old!"
    assert read(engine, "volume", 0, 4) == b"old!"
    assert engine.check().problems == []


@pytest.mark.parametrize("switched", [True, False])
def test_a_revert_is_decided_by_what_was_flushed(engine, lazy, expect_logs, monkeypatch, switched):
    expect_logs("finding out how an interrupted operation ended")
    where = (replacing, "forward") if switched else (access, "tell_to_switch")
    with prepared(engine) as (_, client):
        client.write(0, b"new")
        client.flush()
        revert_and_crash(engine, monkeypatch, where)
        client.write(3, b"!")
        client.flush()
    with engine.catalog.read() as conn:
        assert fisks.find(conn, "volume").next_map is not None
    write(engine, "volume", 4, b"?")
    assert read(engine, "volume", 0, 5) == (b"old!?" if switched else b"new!?")
    assert engine.check().problems == []

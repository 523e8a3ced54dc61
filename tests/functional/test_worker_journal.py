# SPDX-License-Identifier: Apache-2.0
"""What a worker acknowledged is there after it was killed, flushed or not: its clients only reconnect."""

import os
import random
import signal
from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.launch import start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.errors import PoolError, ProtocolError
from tests.engines import BLOCK, MIB, make_volume, read

SIZE = MIB


@contextmanager
def killed(engine, ref="volume"):
    """Give a client of a worker that is killed at the end."""
    fisk = engine.get(ref)
    with engine.acquire(ref, True) as lock:
        options = ServeOptions(
            unix=str(engine.home.socket(fisk.id)), control=str(engine.home.control(fisk.id)), announce=True
        )
        worker = start_worker(engine.disk_spec(fisk, False), lock_fd=lock.fd, options=options)
    try:
        with suppress(ProtocolError, PoolError), NbdClient.connect(worker.uri) as client:
            yield client
            os.kill(worker.pid, signal.SIGKILL)
    finally:
        with suppress(PoolError):
            worker.stop()


def journals(engine):
    return [*engine.home.run.glob("*.journal")]


def test_writes_that_were_not_flushed(engine):
    make_volume(engine, content=b"old" * 1000)
    with killed(engine) as client:
        client.write(0, b"n" * BLOCK)
        client.write(SIZE - 100, b"end")
        client.trim(2 * BLOCK, BLOCK)
        client.zero(4 * BLOCK + 10, 20)
    assert read(engine, "volume", 0, BLOCK) == b"n" * BLOCK
    assert read(engine, "volume", SIZE - 100, 3) == b"end"
    assert read(engine, "volume", 2 * BLOCK, BLOCK) == bytes(BLOCK)
    assert read(engine, "volume", 4 * BLOCK + 10, 20) == bytes(20)
    assert journals(engine) == []
    assert engine.check().problems == []


def test_a_snapshot_while_the_worker_is_dead_has_them_too(engine):
    make_volume(engine)
    with killed(engine) as client:
        client.write(0, b"n" * BLOCK)
    engine.snapshot("volume", "snapshot")
    assert read(engine, "snapshot", 0, BLOCK) == b"n" * BLOCK
    assert read(engine, "volume", 0, BLOCK) == b"n" * BLOCK


def test_behind_a_snapshot_of_the_served_fisk(engine):
    make_volume(engine)
    with killed(engine) as client:
        client.write(0, b"1" * BLOCK)
        engine.snapshot("volume", "snapshot")
        client.write(BLOCK, b"2" * BLOCK)
        client.trim(0, BLOCK)
    assert read(engine, "volume", 0, 2 * BLOCK) == bytes(BLOCK) + b"2" * BLOCK
    assert read(engine, "snapshot", 0, 2 * BLOCK) == b"1" * BLOCK + bytes(BLOCK)


def test_behind_a_revert_of_the_served_fisk(engine):
    make_volume(engine, content=b"0" * BLOCK)
    engine.snapshot("volume", "snapshot")
    with killed(engine) as client:
        client.write(0, b"1" * BLOCK)
        engine.revert("volume", "snapshot")
        client.write(BLOCK, b"2" * BLOCK)
    assert read(engine, "volume", 0, 2 * BLOCK) == b"0" * BLOCK + b"2" * BLOCK


def test_a_later_writer_makes_a_journal_void(engine):
    make_volume(engine)
    with killed(engine) as client:
        client.write(0, b"1" * BLOCK)
    [path] = journals(engine)
    stale = path.read_bytes()
    with engine.open_disk("volume", writable=True) as disk:
        disk.trim(0, BLOCK)
    path.write_bytes(stale)
    assert read(engine, "volume", 0, BLOCK) == bytes(BLOCK)
    assert journals(engine) == []


def test_a_clean_end_leaves_no_journal(engine):
    make_volume(engine)
    fisk = engine.get("volume")
    with engine.acquire("volume", True) as lock:
        options = ServeOptions(unix=str(engine.home.socket(fisk.id)), announce=True)
        worker = start_worker(engine.disk_spec(fisk, False), lock_fd=lock.fd, options=options)
    with worker, NbdClient.connect(worker.uri) as client:
        client.write(0, b"x" * BLOCK)
        assert len(journals(engine)) == 1
    assert journals(engine) == []


def test_a_journal_nobody_needs_is_swept(engine):
    make_volume(engine)
    with killed(engine) as client:
        client.write(0, b"1" * BLOCK)
    engine.home.journal(str(uuid4())).write_bytes(b"")
    engine.check(repair=True)
    assert len(journals(engine)) == 1
    assert read(engine, "volume", 0, BLOCK) == b"1" * BLOCK


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_and_kills(engine, seed):
    chance = random.Random(seed)
    make_volume(engine, content=chance.randbytes(SIZE // 2))
    model = bytearray(read(engine, "volume", 0, SIZE))
    kept = {}
    for turn in range(6):
        with killed(engine) as client:
            for _ in range(chance.randrange(60)):
                offset = chance.randrange(SIZE)
                length = min(SIZE - offset, chance.choice([1, 100, BLOCK, 5 * BLOCK, 100 * BLOCK]))
                kind = chance.random()
                if kind < 0.6:
                    data = chance.randbytes(length)
                    client.write(offset, data)
                    model[offset : offset + length] = data
                elif kind < 0.9:
                    client.zero(offset, length)
                    model[offset : offset + length] = bytes(length)
                else:
                    client.flush()
            if chance.random() < 0.5:
                engine.snapshot("volume", f"s{turn}")
                kept[f"s{turn}"] = bytes(model)
        assert read(engine, "volume", 0, SIZE) == model
    for name, expected in kept.items():
        assert read(engine, name, 0, SIZE) == expected
    assert engine.check().problems == []

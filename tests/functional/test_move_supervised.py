# SPDX-License-Identifier: Apache-2.0
"""Moving what is attached: its supervised worker goes on in the other pool, dies there, and is back there."""

import os
import signal

import pytest

from fisk_core.engine import Engine
from fisk_core.services import sweep
from fisk_core.supervision import Supervisor, keeping
from tests.engines import make_volume, read, write
from tests.supervisors import configure, connected, leavings, reconnected, supervising


@pytest.fixture
def engine(home, monkeypatch):
    configure(home)
    monkeypatch.setenv("FISK_HOME", str(home))
    with Engine.open(home) as opened:
        opened.create_pool("other")
        yield opened


def kill(supervisor: Supervisor) -> None:
    [status] = supervisor.workers()
    pidfd = os.pidfd_open(status.pid)
    os.kill(status.pid, signal.SIGKILL)
    assert keeping.has_ended(pidfd, 10)
    os.close(pidfd)


def test_an_attached_volume(engine, expect_logs):
    expect_logs(r"ended \(signal 9\); starting one")
    make_volume(engine, content=b"old")
    engine.set("volume", attributes={"class": "latency", "qos.total_iops": "100000"})
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        with connected(made) as client:
            client.write(0, b"new")
            assert engine.move("volume", "other").pool == "other"
            client.write(3, b"er")
            client.flush()
            [status] = supervisor.workers()
            assert status.map_id == engine.get("volume").map_id
            kill(supervisor)
        with reconnected(made) as client:
            assert bytes(client.read(0, 5)) == b"newer"
            client.write(5, b"!")
            engine.snapshot("volume", "snap")
            assert engine.move("volume", "default").pool == "default"
            assert bytes(client.read(0, 6)) == b"newer!"
        supervisor.detach(made.id)
        assert leavings(engine) == []
    assert read(engine, "snap", 0, 6) == read(engine, "volume", 0, 6) == b"newer!"
    assert (engine.get("snap").pool, engine.get("volume").pool) == ("other", "default")
    engine.settle()
    assert engine.check().problems == []


def test_an_attached_image(engine):
    """Its readers go on reading what they opened; the old data goes when their worker is gone."""
    make_volume(engine, content=b"golden")
    write(engine, "volume", 6, b" image")
    engine.set("volume", frozen=True)
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume", read_only=True)
        with connected(made) as client:
            assert engine.move("volume", "other").pool == "other"
            assert sweep.sweep_pins(engine) == 0
            assert bytes(client.read(0, 12)) == b"golden image"
        supervisor.detach(made.id)
    assert sweep.sweep_pins(engine) == 1
    assert read(engine, "volume", 0, 12) == b"golden image"
    engine.settle()
    assert engine.check().problems == []
    assert list(engine.open_pool("default").list_blobs()) == []

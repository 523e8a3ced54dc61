# SPDX-License-Identifier: Apache-2.0
"""Whoever attached a Fisk read-only cannot write to it, whatever others do with it."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import ReadOnly
from fisk_core.supervision import Supervisor
from tests.conftest import ExpectLogs
from tests.engines import make_volume
from tests.servers import Raw
from tests.supervisors import connected, leavings, reconnected, supervising
from tests.waiting import until


@pytest.fixture
def supervisor(engine: Engine) -> Iterator[Supervisor]:
    make_volume(engine, content=b"content")
    with supervising(engine) as opened:
        yield opened


def require_reader(client: NbdClient) -> None:
    """The client is told that it may only read, and is held to it."""
    assert client.read_only
    assert client.read(0, 7)[1:] == b"ontent"
    with pytest.raises(ReadOnly):
        client.write(0, b"x")


def test_beside_a_writer(engine: Engine, supervisor: Supervisor) -> None:
    writer, reader = supervisor.attach("volume"), supervisor.attach("volume", read_only=True)
    assert writer.uris[0].endswith(f"/{writer.fisk_id}.nbd")
    with connected(writer) as first, connected(reader) as second:
        assert not first.read_only
        require_reader(second)
        first.write(0, b"C")
        assert second.read(0, 7) == b"Content"
    with Raw(str(engine.home.reader(reader.fisk_id)), structured=True) as raw:
        assert raw.write(0, bytes(512)) == p.EPERM
        assert [raw.call(kind, 0, 512).error for kind in (p.CMD_TRIM, p.CMD_WRITE_ZEROES)] == [p.EPERM] * 2
        assert raw.call(p.CMD_FLUSH).error == 0
    listed = subprocess.run(
        ["nbdinfo", "--list", reader.uris[0]], capture_output=True, text=True, check=True
    ).stdout
    assert 'export="volume"' in listed
    assert "is_read_only: true" in listed
    supervisor.detach(writer.id)
    with connected(reader) as client:
        require_reader(client)
    supervisor.detach(reader.id)
    assert leavings(engine) == []


def test_before_and_after_a_writer(supervisor: Supervisor) -> None:
    """The writer needs another worker, which readers meet at the address they know."""
    reader = supervisor.attach("volume", read_only=True)
    with connected(reader) as client:
        require_reader(client)
    writer = supervisor.attach("volume")
    with connected(writer) as client, connected(reader) as other:
        client.write(0, b"C")
        require_reader(other)


def test_workers_that_are_replaced(engine: Engine, supervisor: Supervisor, expect_logs: ExpectLogs) -> None:
    expect_logs(r"the worker of Fisk .* ended")
    reader = supervisor.attach("volume", read_only=True)
    supervisor.attach("volume")
    with connected(reader) as client:
        assert supervisor.upgrade("volume") == 1
        require_reader(client)
        with connected(reader) as another:
            require_reader(another)
        [worker] = supervisor.workers()
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: [each.pid for each in supervisor.workers()] not in ([], [worker.pid]))
    with reconnected(reader) as client:
        require_reader(client)
    assert supervisor.attachment(reader.id).uris == reader.uris

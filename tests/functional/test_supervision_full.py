# SPDX-License-Identifier: Apache-2.0
"""The file system of the home directory is full: what was in use goes on, what is new is refused."""

import os
import signal
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import NoSpace
from tests.conftest import ExpectLogs
from tests.engines import BLOCK, MIB, make_volume, read
from tests.filesystems import SMALLEST, mounted
from tests.supervisors import connected, reconnected, supervising
from tests.waiting import until


@pytest.fixture(params=["ext4", "tmpfs"])
def full(home: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A home directory on a file system of its own, whose path is short."""
    with mounted(request.param, max(SMALLEST[request.param], 16 * MIB), home) as directory:
        yield directory


def fill(directory: Path) -> None:
    """Take every byte that is left."""
    with (directory / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            with pytest.raises(OSError, match="No space"):
                write_for_ever(file, b"f" * size)


def write_for_ever(file: FileIO, data: bytes) -> None:
    while True:
        file.write(data)


def test_a_full_home(full: Path, tmp_path: Path, expect_logs: ExpectLogs) -> None:
    expect_logs(r"the worker of Fisk|interrupted snapshot|stays unfinished|disk is full|[Nn]o space")
    with Engine.open(full) as engine:
        engine.create_pool("data", options={"path": str(tmp_path / "data")})
        engine.create("volume", 1 << 20, pool="data", block_size=BLOCK, page_size=4 * BLOCK)
        make_volume(engine, "other")
        with supervising(engine) as supervisor:
            attachment = supervisor.attach("volume")
            with connected(attachment) as client:
                client.write(0, b"1" * BLOCK)
                fill(full)
                client.write(BLOCK, b"2" * BLOCK)
            [worker] = supervisor.workers()
            os.kill(worker.pid, signal.SIGKILL)
            until(lambda: [each.pid for each in supervisor.workers()] not in ([], [worker.pid]))
            with reconnected(attachment) as client:
                assert client.read(0, 2 * BLOCK) == b"1" * BLOCK + b"2" * BLOCK, "acknowledged is there"
                client.write(2 * BLOCK, b"3" * BLOCK)
                client.flush()
                assert supervisor.upgrade("volume") == 1
                client.write(3 * BLOCK, b"4" * BLOCK)
                fill(full)  # the reserve of the catalog, too
                with pytest.raises(NoSpace):
                    engine.snapshot("volume", "snapshot")
                client.write(4 * BLOCK, b"5" * BLOCK)
                client.flush()
                with pytest.raises(NoSpace):
                    supervisor.attach("other")
                (full / "filler").unlink()
                engine.snapshot("volume", "snapshot")
                client.write(4 * BLOCK, b"6" * BLOCK)
            supervisor.detach(supervisor.attach("other").id)
        wanted = b"".join(each * BLOCK for each in (b"1", b"2", b"3", b"4"))
        assert read(engine, "snapshot", 0, 5 * BLOCK) == wanted + b"5" * BLOCK
        assert read(engine, "volume", 0, 5 * BLOCK) == wanted + b"6" * BLOCK
        engine.settle()
        assert engine.check(repair=True).ok
        assert list(engine.home.run.glob("*.journal")) == []
        assert list(engine.home.run.glob("*.worker")) == []

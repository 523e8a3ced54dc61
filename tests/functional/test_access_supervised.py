# SPDX-License-Identifier: Apache-2.0
"""Access paths as a supervisor makes, keeps and ends them."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fisk_core.access import access_path, known
from fisk_core.access.loops import devices_of
from fisk_core.engine import Engine
from fisk_core.errors import InvalidValue
from fisk_core.supervision import Supervisor
from tests.conftest import ExpectLogs
from tests.engines import MIB
from tests.filesystems import SMALLEST, mounted

SIZE = 16 * MIB


@pytest.fixture
def supervisor(engine: Engine) -> Iterator[Supervisor]:
    # Nothing listens on a port that others may want.
    settings = replace(engine.settings, nbd=replace(engine.settings.nbd, listen=""))
    with Supervisor(engine, settings) as opened:
        try:
            yield opened
        finally:
            for attachment in opened.attachments():
                opened.detach(attachment.id, force=True)
            opened.drain()


@pytest.fixture(params=["file", "block", "iscsi"])
def access(request: pytest.FixtureRequest, engine: Engine) -> str:
    name: str = request.param
    if lacking := access_path(name, engine).available():
        pytest.skip(lacking)
    return name


def leftovers(engine: Engine) -> list[Path]:
    """Give what access paths have left behind."""
    directory = engine.home.run / "access"
    return list(directory.glob("*")) if directory.exists() else []


def test_the_entry_points() -> None:
    assert {"nbd", "direct", "file", "block", "iscsi"} <= set(known())


def test_one_that_does_not_exist(engine: Engine) -> None:
    with pytest.raises(InvalidValue, match="block"):
        access_path("pigeon", engine)


def test_attached_and_detached(engine: Engine, supervisor: Supervisor, access: str) -> None:
    engine.create("disk", SIZE)
    for _ in range(3):
        attachment = supervisor.attach("disk", access=access)
        assert attachment.path
        assert leftovers(engine)
        supervisor.detach(attachment.id)
        assert not leftovers(engine)
    assert not supervisor.attachments()


def test_a_worker_that_is_killed_is_not_missed(
    engine: Engine, supervisor: Supervisor, expect_logs: ExpectLogs
) -> None:
    expect_logs(r"the worker of Fisk .* (ended|is not there)")
    if lacking := access_path("block", engine).available():
        pytest.skip(lacking)
    engine.create("disk", SIZE)
    attachment = supervisor.attach("disk", access="block")
    device = os.open(attachment.path or "", os.O_RDWR)
    try:
        for number in range(3):
            os.pwrite(device, bytes([1 + number]) * 4096, number * 4096)
            os.fsync(device)
            os.pwrite(device, bytes([11 + number]) * 4096, (10 + number) * 4096)
            (worker,) = supervisor.workers()
            os.kill(worker.pid, signal.SIGKILL)
            os.pwrite(device, bytes([21 + number]) * 4096, (20 + number) * 4096)
            os.fsync(device)
    finally:
        os.close(device)
    supervisor.detach(attachment.id)
    with engine.open_disk("disk") as disk:
        for number in range(3):
            for start, value in ((0, 1), (10, 11), (20, 21)):
                assert disk.read((start + number) * 4096, 4096) == bytes([value + number]) * 4096
    assert not devices_of(engine.home.run / "access" / attachment.id / "disk.raw")


def test_a_resized_fisk_is_seen(engine: Engine, supervisor: Supervisor) -> None:
    for access in ("file", "block"):
        if lacking := access_path(access, engine).available():
            pytest.skip(lacking)
        engine.create(access, SIZE)
        attachment = supervisor.attach(access, access=access)
        supervisor.resize(access, 2 * SIZE)
        with open(attachment.path or "", "rb") as opened:
            assert opened.seek(0, os.SEEK_END) == 2 * SIZE
        supervisor.detach(attachment.id)


def test_direct(engine: Engine, supervisor: Supervisor, tmp_path: Path) -> None:
    with mounted("xfs", SMALLEST["xfs"], tmp_path) as directory:
        engine.create_pool("shared", "file", {"path": str(directory / "pool")})
        engine.create("disk", SIZE, pool="shared")
        attachment = supervisor.attach("disk", access="direct")
        file = Path(attachment.path or "")
        with file.open("r+b") as opened:
            opened.write(b"by hand")
        engine.snapshot("disk", "taken")
        supervisor.detach(attachment.id)
        reader = supervisor.attach("taken", access="direct", read_only=True)
        assert Path(reader.path or "").read_bytes()[:7] == b"by hand"
        supervisor.detach(reader.id)
        supervisor.drain()
        engine.settle()
        assert not leftovers(engine)

# SPDX-License-Identifier: Apache-2.0
"""Access path ``iscsi``, looked at with the tools of libiscsi and QEMU."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fisk_core.access.iscsi import Iscsi
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import InvalidValue
from tests.engines import MIB, serving

SIZE = 64 * MIB


@pytest.fixture
def path(engine: Engine) -> Iscsi:
    found = Iscsi(engine)
    if lacking := found.available():
        pytest.skip(lacking)
    for tool in ("iscsi-ls", "iscsi-inq", "qemu-io"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    return found


@contextmanager
def attached(
    engine: Engine, path: Iscsi, name: str = "disk", **options: Any
) -> Iterator[tuple[str, dict[str, Any], NbdClient]]:
    fisk = engine.create(name, SIZE)
    with serving(engine, name) as (worker, client):
        directory = engine.home.run / "access" / name
        details = path.plan(fisk, worker.uri, directory, read_only=False, options=options)
        try:
            url = path.connect(details)
            assert url is not None
            yield url, details, client
        finally:
            path.disconnect(details, force=True)
        assert not directory.exists()


def run(*command: object, fails: bool = False) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout


def test_reading_and_writing(engine: Engine, path: Iscsi) -> None:
    with attached(engine, path) as (url, details, client):
        portal = url.split("/")[2]
        assert details["target"] in run("iscsi-ls", f"iscsi://{portal}")
        assert "FISK" in run("iscsi-inq", url)
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", url)
        assert client.read(MIB, 65536) == b"\7" * 65536
        client.write(2 * MIB, b"\5" * 4096)
        run("qemu-io", "-f", "raw", "-c", "read -P 5 2M 4k", url)
        assert str(SIZE) in run("qemu-img", "info", "-f", "raw", "--output", "json", url)
    assert not (engine.home.run / "iscsi" / "tgtd.pid").exists()


def test_credentials(engine: Engine, path: Iscsi) -> None:
    with attached(engine, path, chap=True) as (url, details, _):
        run("iscsi-inq", url)
        login, _, rest = url.partition("@")
        run("iscsi-inq", f"iscsi://{rest}", fails=True)
        run("iscsi-inq", f"{login}wrong@{rest}", fails=True)
        assert path.connect(details) == url


def test_credentials_as_a_command_line_has_them(engine: Engine, path: Iscsi) -> None:
    fisk = engine.create("disk", SIZE)
    for word, wanted in (("true", True), ("false", False), ("no", False)):
        details = path.plan(
            fisk, "nbd+unix:///?socket=/x", engine.home.run, read_only=False, options={"chap": word}
        )
        assert bool(details["chap"]) is wanted
    with pytest.raises(InvalidValue):
        path.plan(
            fisk, "nbd+unix:///?socket=/x", engine.home.run, read_only=False, options={"chap": "perhaps"}
        )


def test_two_targets_share_the_daemon(engine: Engine, path: Iscsi) -> None:
    with attached(engine, path, "one") as (first, details, _):
        with attached(engine, path, "two") as (second, _, _):
            assert first.split("/")[2] == second.split("/")[2]
            listed = run("iscsi-ls", f"iscsi://{first.split('/')[2]}")
            assert ":one" in listed
            assert ":two" in listed
        assert path.alive(details)
        run("iscsi-inq", first)


def test_size_follows(engine: Engine, path: Iscsi) -> None:
    with attached(engine, path) as (url, details, _):
        engine.resize("disk", 2 * SIZE)
        path.resized(details, 2 * SIZE)
        assert str(2 * SIZE) in run("qemu-img", "info", "-f", "raw", "--output", "json", url)


def test_a_daemon_that_was_killed_is_replaced(engine: Engine, path: Iscsi) -> None:
    with attached(engine, path) as (_, details, _):
        process = int((engine.home.run / "iscsi" / "tgtd.pid").read_text().split()[0])
        pidfd = os.pidfd_open(process)
        with open(pidfd, "rb"):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        while path.alive(details):
            os.sched_yield()
        run("iscsi-inq", path.connect(details))
        assert path.alive(details)


def test_portals_that_make_no_sense(engine: Engine, path: Iscsi) -> None:
    fisk = engine.create("disk", SIZE)
    for portal in ("localhost", "example:3260", "127.0.0.1:99999"):
        with pytest.raises(InvalidValue):
            path.plan(fisk, "nbd+unix:///?socket=/x", Path("/x"), read_only=False, options={"portal": portal})

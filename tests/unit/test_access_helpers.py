# SPDX-License-Identifier: Apache-2.0
"""Helper processes: found by their lock, ended by their id, and nobody else is hit."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core import locks
from fisk_core.access import helpers
from fisk_core.access.helpers import Helper
from fisk_core.errors import PoolError


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    made = Helper(tmp_path, "helper")
    yield made
    made.end()
    made.remove()
    assert not list(tmp_path.glob("helper.*"))


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def pid_of(helper: Helper) -> int:
    helper.wait_until(helper.pid_file.exists)
    return int(helper.pid_file.read_text().split()[0])


def test_started_once_and_ended(helper: Helper) -> None:
    helper.start(["sleep", "1000"])
    process = pid_of(helper)
    helper.start(["sleep", "1000"])
    assert helper.running
    assert pid_of(helper) == process
    again = Helper(helper.lock.parent, "helper")  # as a later process finds it
    again.end()
    assert not helper.running
    assert not Path(f"/proc/{process}/cmdline").exists() or not Path(f"/proc/{process}/cmdline").read_bytes()
    again.end()


def test_ended_before_it_wrote_its_id(helper: Helper) -> None:
    helper.start(["sleep", "1000"])
    helper.end()
    assert not helper.running


def test_one_that_does_not_heed_a_signal(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "END_SECONDS", 0.1)
    helper.start(["sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait; wait"])
    helper.wait_until(lambda: "ready" in helper.log.read_text())
    child = int(Path(f"/proc/{pid_of(helper)}/task/{pid_of(helper)}/children").read_text().split()[0])
    monkeypatch.setattr(helpers, "_KILL_SECONDS", 0.1)
    with pytest.raises(PoolError, match="does not end"):
        helper.end()  # its child inherited the lock
    os.kill(child, signal.SIGKILL)


def test_what_it_said_last(helper: Helper) -> None:
    helper.start(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(PoolError, match="no such thing"):
        helper.wait_until(lambda: False)


def test_a_used_again_id_is_never_hit(
    helper: Helper, stranger: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "END_SECONDS", 0.05)
    monkeypatch.setattr(helpers, "_KILL_SECONDS", 0.05)
    helper.pid_file.write_text(f"{stranger.pid} 12345\n")
    helper.end()  # nobody holds the lock
    with locks.acquire(helper.lock), pytest.raises(PoolError):
        helper.end()  # somebody does, but the start time is another
    assert stranger.poll() is None

# SPDX-License-Identifier: Apache-2.0
"""Access paths under supervision: connected after the worker, undone before it, also after a crash."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fisk_core.access import access_path
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import FiskError, InUse
from fisk_core.supervision import Supervisor
from tests.engines import MIB, read
from tests.filesystems import SMALLEST, mounted
from tests.supervisors import configure, leavings, processes_of, supervising
from tests.waiting import until


@pytest.fixture
def engine(home, monkeypatch):
    configure(home)
    monkeypatch.setenv("FISK_HOME", str(home))
    with Engine.open(home) as opened:
        if lacking := access_path("file", opened).available():
            pytest.skip(lacking)
        opened.create("volume", MIB)
        yield opened


def gone(engine):
    """Say whether nothing is left: no file, no process."""
    return leavings(engine) == [] and set(processes_of(engine.home.path)) <= {os.getpid(), *children()}


def children():
    return {
        int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()
    }


def test_a_file_and_nothing_left_of_it(engine):
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume", access="file")
        assert supervisor.attach("volume", access="file", id=made.id) == made
        with open(made.path, "r+b") as file:
            file.write(b"by file")
            os.fsync(file.fileno())
        assert [each.attachments for each in supervisor.workers()] == [1]
        supervisor.detach(made.id)
        assert gone(engine)
    assert read(engine, "volume", 0, 7) == b"by file"


def test_one_that_cannot_be_connected_leaves_nothing(engine):
    with supervising(engine) as supervisor:
        with pytest.raises(FiskError, match="unknown option"):
            supervisor.attach("volume", access="file", options={"colour": "red"})
        assert supervisor.attachments() == supervisor.workers() == []
        assert gone(engine)


def test_a_forced_delete_takes_the_file_away(engine):
    with supervising(engine) as supervisor:
        supervisor.attach("volume", access="file")
        engine.delete("volume", force=True)
        until(lambda: gone(engine))


def test_a_dead_helper_is_connected_again(engine, expect_logs):
    expect_logs("is not there; connecting it again")
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume", access="file")
        before = {*processes_of(engine.home.path)}
        workers = {each.pid for each in supervisor.workers()}
        for pid in before - {os.getpid()} - workers - {supervisor._core.workers.zygotes.pid}:
            os.kill(pid, signal.SIGKILL)
        until(lambda: readable(supervisor.attachment(made.id).path))
        supervisor.detach(made.id)
        assert gone(engine)


def readable(path):
    try:
        return Path(path).read_bytes() == bytes(MIB)
    except OSError:
        return False


CODE = """
import os, sys
from pathlib import Path
from fisk_core.engine import Engine
from fisk_core.supervision import Supervisor, attaching

engine = Engine.open(Path(sys.argv[1]))
supervisor = Supervisor(engine)
if sys.argv[2] == "half":
    def crash(*_):
        os.kill(os.getpid(), 9)
    supervisor._core.driver("file").connect = crash
supervisor.attach("volume", access="file", id=sys.argv[3])
os.kill(os.getpid(), 9)
"""
ID = "0b8b3ad1-7a6e-4a26-9bd9-6a4a5c3f9a10"


@pytest.mark.parametrize("where", ["half", "whole"])
def test_a_crash_while_a_file_is_connected_and_after(engine, where):
    process = subprocess.run([sys.executable, "-c", CODE, str(engine.home.path), where, ID], check=False)
    assert process.returncode == -9
    with supervising(engine) as supervisor:
        attached = supervisor.attachments()
        assert len(attached) == (where == "whole")
        for each in attached:
            assert readable(each.path)
            supervisor.detach(each.id)
        until(lambda: gone(engine))  # the zygote of who was killed goes in its own time


@pytest.fixture
def whole(engine, tmp_path):
    """A Fisk on a file system that shares extents."""
    with mounted("xfs", SMALLEST["xfs"], tmp_path) as directory:
        engine.create_pool("shared", "file", {"path": str(directory / "pool")})
        yield engine.create("whole", 16 * MIB, pool="shared")
        engine.settle()


def test_a_direct_file_needs_no_worker_and_excludes_one(engine, whole):
    with Supervisor(engine) as supervisor:
        made = supervisor.attach("whole", access="direct", consumer="guest")
        assert (made.uris, supervisor.workers()) == ((), [])
        assert made.epoch > 0
        for wanted in ({}, {"read_only": True}, {"access": "direct"}):
            with pytest.raises(InUse):
                supervisor.attach("whole", **wanted)
        Path(made.path).open("r+b").close()
    with supervising(engine) as supervisor:
        assert supervisor.attachments() == [made]
        with open(made.path, "r+b") as file:
            file.write(b"direct")
            os.fsync(file.fileno())
        engine.snapshot("whole", "snap")
        with pytest.raises(InUse, match="attached"):
            engine.delete("whole")
        supervisor.detach(made.id)
        with NbdClient.connect(supervisor.attach("whole").uris[0]) as client:
            assert bytes(client.read(0, 6)) == b"direct"
        with pytest.raises(InUse, match="exclude"):
            supervisor.attach("whole", access="direct")
        assert len(supervisor.attachments()) == 1
    assert read(engine, "snap", 0, 6) == b"direct"

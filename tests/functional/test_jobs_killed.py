# SPDX-License-Identifier: Apache-2.0
"""The process that runs a job is killed on the way; the next one brings it to its end."""

import os
import signal
import subprocess
import sys

import pytest

from fisk_core import locks
from fisk_core.jobs import Runner
from fisk_core.model import JobState
from tests.engines import MIB, make_volume, read

_CHILD = """
import os, signal, sys
from pathlib import Path
from fisk_core.engine import Engine
from fisk_core.jobs import Runner, task

real, calls = task.Task.progress, []

def progress(work, done, total):
    calls.append(done)
    if len(calls) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(work, done, total)

task.Task.progress = progress
with Engine.open(Path(sys.argv[1])) as engine:
    jobs = Runner(engine, "here", directories=[Path(sys.argv[2])])
    jobs.start()
    for job in jobs.list():
        jobs.wait(job.id)
"""


@pytest.fixture
def folder(home):
    path = home / "exchange"
    path.mkdir()
    return path


def finished_after_a_kill(engine, folder, kind, arguments, calls=3):
    """Submit a job, kill the process that runs it at its n-th word, and let this one bring it to its end."""
    jobs = Runner(engine, "here", directories=[folder])
    job = jobs.submit(kind, arguments)
    command = [sys.executable, "-c", _CHILD, str(engine.home.path), str(folder), str(calls)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert jobs.get(job.id).state is JobState.RUNNING
    jobs.start()
    try:
        done = jobs.wait(job.id, 60)
    finally:
        jobs.stop()
    assert (done.state, done.error) == (JobState.DONE, None)
    return done


def test_import(engine, folder):
    data = os.urandom(4 * MIB)
    (folder / "image").write_bytes(data)
    order = {"source": str(folder / "image"), "name": "image", "keep_original": True}
    done = finished_after_a_kill(engine, folder, "import", order)
    assert read(engine, done.result["fisk"], 0, len(data)) == data
    assert read(engine, done.result["original"], 0, len(data)) == data
    assert sorted(fisk.name for fisk in engine.list()) == ["image", "image.original"]
    engine.settle()
    assert engine.check(repair=True).ok
    assert engine.check().problems == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_download(engine, folder, format):
    make_volume(engine, size=4 * MIB, content=os.urandom(4 * MIB))
    order = {"ref": "volume", "target": str(folder / "file"), "format": format}
    finished_after_a_kill(engine, folder, "download", order, calls=1)
    with locks.acquire(engine.home.lock(engine.get("volume").id), timeout=30):
        pass  # the worker that served it to a converter has ended with its process
    assert os.listdir(folder) == ["file"]
    assert engine.import_image(folder / "file", "again").size == 4 * MIB
    assert read(engine, "again", 0, 4 * MIB) == read(engine, "volume", 0, 4 * MIB)


def test_move(engine, folder):
    engine.create_pool("other")
    data = os.urandom(4 * MIB)
    make_volume(engine, size=32 * MIB, content=data)
    with engine.open_disk("volume", writable=True) as disk:
        disk.write(20 * MIB, data)
    finished_after_a_kill(engine, folder, "move", {"ref": "volume", "pool": "other"}, calls=2)
    assert engine.get("volume").pool == "other"
    assert read(engine, "volume", 20 * MIB, 4 * MIB) == read(engine, "volume", 0, 4 * MIB) == data
    engine.settle()
    engine.check(repair=True)
    assert engine.check().problems == []

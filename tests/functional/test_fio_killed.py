# SPDX-License-Identifier: Apache-2.0
"""fio writes a Fisk and verifies every block, while workers and daemon are killed at random."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from fisk_core.access import fuse
from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from tests.engines import MIB
from tests.fiskds import running

SIZE = 64 * MIB
KILLS = 6


def start_fio(path, folder):
    """Write all of the file in random order, thrice, then read it back against the checksums written."""
    return subprocess.Popen(
        ["fio", "--name=verified", f"--filename={path}", "--rw=randwrite", "--bs=4k", f"--size={SIZE}",
         "--ioengine=psync", "--direct=1", "--fsync=500", "--loops=3", "--verify=crc32c", "--verify_fatal=1",
         "--do_verify=1", "--output-format=json", "--output=fio.json"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_workers(client):
    for worker in client.workers():
        os.kill(worker["pid"], signal.SIGKILL)


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.skipif(fuse.lacking() is not None, reason=str(fuse.lacking()))
@pytest.mark.timeout(300)
def test_fio_verifies_what_it_wrote(home, tmp_path):
    chance = random.Random(3)
    with running(home) as fiskd, RemoteEngine.open(fiskd.url) as client:
        client.create("disk", SIZE)
        attachment = client.attach("disk", access="file")
        with start_fio(attachment.path, tmp_path) as fio:
            killed = 0
            while fio.poll() is None and killed < KILLS:
                time.sleep(0.3 + chance.random())
                victims = chance.choice(["worker", "fiskd", "both"])
                if victims != "fiskd":
                    kill_workers(client)
                if victims != "worker":
                    fiskd.kill()
                    fiskd.restart()
                killed += 1
            _, complaints = fio.communicate(timeout=240)
        assert (fio.returncode, complaints) == (0, "")
        [job] = json.loads((tmp_path / "fio.json").read_text())["jobs"]
        assert job["error"] == 0
        assert job["write"]["io_bytes"] == 3 * SIZE
        assert job["read"]["io_bytes"] >= SIZE  # the verification
        assert killed >= 3
        client.detach(attachment.id)
    with Engine.open(home) as engine:
        assert engine.check().problems == []

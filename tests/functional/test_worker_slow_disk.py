# SPDX-License-Identifier: Apache-2.0
"""A pool on a slow disk: a Fisk that may be read 100 times a second, as a block device."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from fisk_core.dataplane.client import NbdClient
from tests.disks import USUAL, make_pool, make_spec
from tests.engines import MIB
from tests.functional.test_access_block import LoopBlock, attached
from tests.functional.test_worker_cold import content_of, drop_caches
from tests.servers import patched_worker

SIZE, STRIDE = 40 * MIB, 64 << 10
PATCH = """
import os
import fisk_core.dataplane.cold as cold
cold.LITTLE_PATIENCE = 0.0
look = cold.ColdReads.retry
looks = os.open({looks!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def counted(self):
    if self._small:
        os.write(looks, b".")
    return look(self)
cold.ColdReads.retry = counted
"""


@pytest.fixture
def slow(engine, tmp_path):
    """Give a directory on a slow disk, and the file behind that."""
    with attached(engine, LoopBlock(engine), attributes={"qos.read_iops": "100"}) as (device, details, _):
        directory = tmp_path / "slow"
        directory.mkdir()
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, directory], check=True)
        try:
            yield directory, Path(details["directory"])
        finally:
            subprocess.run(["umount", directory], check=True)


def connect(path):
    return NbdClient.connect(f"nbd+unix:///?socket={path}")


def test_a_slow_disk_is_not_watched(slow, tmp_path):
    directory, below = slow
    content, looks = content_of(SIZE), tmp_path / "looks"
    spec = make_spec(make_pool(directory / "pool"), SIZE, USUAL)
    patch = PATCH.format(looks=str(looks))
    with patched_worker(spec, tmp_path / "nbd", patch), connect(tmp_path / "nbd") as client:
        client.write(0, content)
        client.flush()
        drop_caches(directory / "pool", below)
        places = random.Random(1).sample(range(0, SIZE, STRIDE), 260)
        for number, offset in enumerate(places):
            if number == 160:  # until here some come at once, and how slow it is must be learnt
                before, since = looks.stat().st_size, time.monotonic()
            assert client.read(offset, 4096) == content[offset : offset + 4096]
        assert before > 100, "nobody counts"
        assert time.monotonic() - since > 0.5, "it is not slow"
        assert looks.stat().st_size - before < 120  # of 100 reads; thousands, if they were watched

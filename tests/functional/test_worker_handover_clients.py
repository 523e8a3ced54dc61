# SPDX-License-Identifier: Apache-2.0
"""Other people's clients do not notice that the worker is replaced."""

import os
import subprocess
import time

import pytest

from fisk_core.dataplane.zygote import Zygote
from tests.disks import USUAL, make_pool, make_spec
from tests.nbd_servers import need
from tests.servers import Forked

SIZE = 64 << 20
SECONDS = 60


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture
def served(zygote, tmp_path):
    with Forked(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as served:
        yield served


def replace_while(process, served, zygote):
    """Replace the worker again and again until a client is done; gives how often."""
    count = 0
    while process.poll() is None:
        old = served.pid
        served._pid, _ = zygote.succeed(served.control_path)
        assert zygote.wait(old) == 0
        count += 1
        time.sleep(0.03)
    return count


def finished(process):
    output, complaints = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output + complaints
    return output


def start(*command, **options):
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True, **options)


def test_fio_with_verification(served, zygote, tmp_path):
    need("fio")
    job = [
        "--name=busy", "--ioengine=nbd", f"--uri={served.uri}", "--rw=randrw", "--rwmixread=30",
        "--bsrange=4k-64k", "--bs_unaligned=0", "--iodepth=16", "--size=24m", "--io_size=96m",
        "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512", "--fsync=64", "--randrepeat=1",
    ]  # fmt: skip
    with start("fio", *job, cwd=tmp_path) as process:
        count = replace_while(process, served, zygote)
        finished(process)
    assert count > 2


def test_nbdcopy_there_and_back(served, zygote, tmp_path):
    need("nbdcopy")
    image, copy = tmp_path / "image", tmp_path / "copy"
    image.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    total = 0
    for source, target in ((str(image), served.uri), (served.uri, str(copy))):
        with start("nbdcopy", "--connections=4", "--request-size=262144", source, target) as process:
            total += replace_while(process, served, zygote)
            finished(process)
    assert copy.read_bytes() == image.read_bytes()
    assert total > 0


def test_qemu_img_bench(served, zygote):
    need("qemu-img")
    command = ["qemu-img", "bench", "-f", "raw", "-w", "-c", "20000", "-d", "16", "-s", "4096", served.uri]
    with start(*command) as process:
        count = replace_while(process, served, zygote)
        finished(process)
    assert count > 0

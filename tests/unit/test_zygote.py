# SPDX-License-Identifier: Apache-2.0
"""Workers forked from a zygote: they serve, end with their status, hold their lock, and weigh little."""

import os
import signal
import time
from pathlib import Path

import pytest

from fisk_core import locks
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import InUse, NotFound, PoolError
from tests.disks import USUAL, make_pool, make_spec, new_id
from tests.servers import Forked, Raw

SIZE = 8 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture
def spec(tmp_path):
    return make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL)


def test_spawn_serve_stop(zygote, spec, tmp_path):
    with Forked(spec, tmp_path, zygote) as served, served.raw() as raw:
        assert raw.write(0, b"forked") == 0
        assert served.control("status")["pid"] == served.pid != zygote.pid
        assert os.getsid(served.pid) == served.pid
    with Forked(spec, tmp_path, zygote) as served, served.raw() as raw:
        assert raw.get(0, 6) == b"forked"


def test_a_worker_with_several_addresses(zygote, spec, tmp_path):
    """Whoever starts it reads the first, and listens no more."""
    for number in range(10):
        options = ServeOptions(unix=str(tmp_path / "nbd"), listen=("127.0.0.1", 0))
        pid, _ = zygote.spawn(spec, options)
        with Raw(str(tmp_path / "nbd")) as raw:
            assert raw.works(), number
        os.kill(pid, signal.SIGTERM)
        assert zygote.wait(pid) == 0


def test_many_at_once_start_quickly(zygote, tmp_path):
    pool = make_pool(tmp_path / "pool")
    started, workers = time.monotonic(), []
    for number in range(10):
        path = tmp_path / f"{number}.sock"
        pid, [uri] = zygote.spawn(make_spec(pool, SIZE), ServeOptions(unix=str(path)))
        assert str(path) in uri
        workers.append((pid, path))
    assert time.monotonic() - started < 5
    for _, path in workers:
        with Raw(str(path)) as raw:
            assert raw.works()
    for pid, _ in workers:
        os.kill(pid, signal.SIGTERM)
    assert [zygote.wait(pid) for pid, _ in reversed(workers)] == [0] * 10


def test_a_killed_worker_is_told_by_its_signal(zygote, spec, tmp_path):
    pid, _ = zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "nbd")))
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL


def test_what_keeps_a_worker_from_starting_is_raised(zygote, spec, tmp_path):
    from dataclasses import replace

    wrong = replace(spec, map_id=new_id())
    with pytest.raises(NotFound, match=wrong.map_id):
        zygote.spawn(wrong, ServeOptions(unix=str(tmp_path / "nbd")))
    pid, _ = zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "nbd")))
    with pytest.raises(InUse):
        zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "nbd")))
    os.kill(pid, signal.SIGTERM)
    assert zygote.wait(pid) == 0


def test_the_worker_holds_the_lock_and_only_it(zygote, spec, tmp_path):
    lock = locks.acquire(tmp_path / "lock")
    pid, _ = zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "nbd")), lock.fd)
    os.close(lock.fd)
    with pytest.raises(InUse):
        locks.acquire(tmp_path / "lock")
    os.kill(pid, signal.SIGTERM)
    zygote.wait(pid)
    locks.acquire(tmp_path / "lock").release()


def private(pid):
    """Bytes of memory that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))
    )


def test_an_idle_worker_has_little_memory_to_itself(zygote, spec, tmp_path):
    with Forked(spec, tmp_path, zygote) as served:
        with served.raw() as raw:
            assert raw.works()
        assert private(served.pid) < 12 * MIB


def test_workers_outlive_their_zygote(spec, tmp_path):
    zygote = Zygote()
    pid, _ = zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "nbd")))
    os.kill(zygote.pid, signal.SIGKILL)
    with Raw(str(tmp_path / "nbd")) as raw:
        assert raw.works()
    with pytest.raises(PoolError, match="gone"):
        zygote.spawn(spec, ServeOptions(unix=str(tmp_path / "other")))
    with pytest.raises(PoolError, match="gone"):
        zygote.wait(pid)
    zygote.close()
    os.kill(pid, signal.SIGTERM)
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the worker does not end")

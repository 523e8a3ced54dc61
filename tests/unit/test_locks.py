# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import threading
import time

import pytest

from fisk_core import locks
from fisk_core.errors import InUse, NotFound


def test_exclusive_excludes_everyone(tmp_path):
    path = tmp_path / "a.lock"
    with locks.acquire(path):
        for shared in (False, True):
            with pytest.raises(InUse):
                locks.acquire(path, shared=shared)
    locks.acquire(path).release()


def test_readers_share(tmp_path):
    path = tmp_path / "a.lock"
    with locks.acquire(path, shared=True), locks.acquire(path, shared=True), pytest.raises(InUse):
        locks.acquire(path)


def test_waiting_ends_when_the_holder_lets_go(tmp_path):
    path = tmp_path / "a.lock"
    held = locks.acquire(path)
    threading.Timer(0.1, held.release).start()
    began = time.monotonic()
    locks.acquire(path, timeout=10).release()
    assert 0.05 < time.monotonic() - began < 5


def test_a_removed_lock_file_is_not_mistaken_for_the_new_one(tmp_path):
    path = tmp_path / "a.lock"
    old = locks.acquire(path)
    waiter: list[locks.Lock] = []
    thread = threading.Thread(target=lambda: waiter.append(locks.acquire(path, timeout=10)))
    thread.start()
    time.sleep(0.05)
    old.remove()
    thread.join()
    assert os.path.samestat(os.fstat(waiter[0].fd), path.stat())
    with pytest.raises(InUse):
        locks.acquire(path)
    waiter[0].release()


def test_release_and_remove_may_be_repeated(tmp_path):
    lock = locks.acquire(tmp_path / "a.lock")
    lock.remove()
    lock.remove()
    lock.release()
    assert not (tmp_path / "a.lock").exists()


def test_the_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "a.lock"
    code = (
        "import sys, time, pathlib; from fisk_core import locks; "
        "lock = locks.acquire(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert locks.is_held(path)
        process.kill()
        process.wait()
    locks.acquire(path).release()


def test_is_held_creates_nothing(tmp_path):
    assert not locks.is_held(tmp_path / "a.lock")
    assert not (tmp_path / "a.lock").exists()
    locks.acquire(tmp_path / "a.lock").release()
    assert not locks.is_held(tmp_path / "a.lock")


def test_a_missing_directory_is_a_typed_error(tmp_path):
    with pytest.raises(NotFound, match=r"a\.lock"):
        locks.acquire(tmp_path / "nowhere" / "a.lock")

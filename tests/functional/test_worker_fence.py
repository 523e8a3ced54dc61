# SPDX-License-Identifier: Apache-2.0
"""A worker whose Fisk another host takes over: it lets go completely, and says so to everybody."""

import os
import threading
import time
from dataclasses import replace

import pytest

from fisk_core import locks
from fisk_core.dataplane import fence, lines
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.launch import start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import FenceOptions
from fisk_core.errors import Fenced, InvalidValue, ReadOnly
from tests.disks import USUAL, make_pool, make_spec
from tests.servers import Served

SIZE = 32 << 20


def set_fence(path, epoch):
    """As one who takes over does: the file changes as a whole."""
    other = path.with_suffix(".new")
    other.write_text(str(epoch))
    os.rename(other, path)


class Fenceable(Served):
    """A worker that holds a lock and looks at a fence."""

    def __init__(self, spec, folder, epoch=7):
        self.fence_path, self.lock_path = folder / "fence", folder / "lock"
        options = ServeOptions(fence=FenceOptions(str(self.fence_path), epoch))
        super().__init__(spec, folder, options)

    def start(self):
        lock = locks.acquire(self.lock_path)
        try:
            self.worker = start_worker(self.spec, options=self.options, lock_fd=lock.fd)
        finally:
            lock.release()

    def fall(self):
        """Raise the fence and wait for the lock."""
        set_fence(self.fence_path, 8)
        return locks.acquire(self.lock_path, timeout=20)


@pytest.fixture
def served(tmp_path):
    with Fenceable(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path) as served:
        yield served


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Load(threading.Thread):
    """Requests of every kind, many at a time; each must get exactly one reply."""

    def __init__(self, served):
        super().__init__()
        self.raw = served.raw()
        self.stopping = threading.Event()
        self.sent = self.answered = self.refused = 0
        self.strange = []

    def run(self):
        data = b"d" * (256 << 10)
        kinds = [
            (p.CMD_WRITE, 4096, 0, data[:4096]),
            (p.CMD_WRITE, 100, 0, data[:100]),
            (p.CMD_WRITE, 4096, p.CMD_FLAG_FUA, data[:4096]),
            (p.CMD_WRITE, len(data), 0, data),
            (p.CMD_FLUSH, 0, 0, b""),
            (p.CMD_TRIM, 128 << 10, 0, b""),
            (p.CMD_WRITE_ZEROES, 8192, p.CMD_FLAG_NO_HOLE, b""),
            (p.CMD_READ, 4096, 0, b""),
        ]
        with self.raw as raw:
            while not self.stopping.is_set() or not self.refused:
                for number, (kind, length, flags, payload) in enumerate(kinds * 4):
                    offset = 0 if kind == p.CMD_FLUSH else (self.sent * 8192 + number) % (SIZE // 2)
                    offset = offset // 4096 * 4096
                    raw.send(kind, offset, length, flags, payload)
                    self.sent += 1
                for _ in kinds * 4:
                    reply = raw.reply()  # a second reply to one request would be unknown by its cookie
                    self.answered += 1
                    if reply.error == p.ESHUTDOWN:
                        self.refused += 1
                    elif reply.error or self.stopping.is_set():
                        self.strange.append(reply)
            assert raw.lengths == {}


def test_fenced_under_load(served, tmp_path):
    loads = [Load(served) for _ in range(3)]
    for load in loads:
        load.start()
    time.sleep(0.2)
    lock = served.fall()
    before = contents(tmp_path / "pool")
    for load in loads:
        load.stopping.set()
    for load in loads:
        load.join()
        assert (load.answered, load.strange) == (load.sent, [])
        assert load.refused
    status = served.control("status")
    assert (status["fenced"], status["epoch"]) == (True, 7)
    assert "another host" in status["failed"]
    assert contents(tmp_path / "pool") == before
    served.stop()
    assert contents(tmp_path / "pool") == before
    lock.release()


def test_the_next_writer_has_what_was_flushed(served, tmp_path):
    with served.raw() as raw:
        raw.write(0, b"flushed" * 1000)
        raw.call(p.CMD_FLUSH)
        lock = served.fall()
        folder = tmp_path / "next"
        folder.mkdir()
        with Served(served.spec, folder) as other, other.raw() as again:
            assert again.get(0, 7000) == b"flushed" * 1000
            again.write(0, b"another" * 1000)
            assert raw.write(0, b"late" * 1024) == p.ESHUTDOWN
            assert raw.call(p.CMD_READ, 0, 4096).error == p.ESHUTDOWN
            again.call(p.CMD_FLUSH)
            served.stop()
            assert again.get(0, 7000) == b"another" * 1000
            other.kill()
            other.start()
            with other.raw() as recovered:
                assert recovered.get(0, 7000) == b"another" * 1000
        lock.release()


def test_a_fenced_worker_takes_no_orders(served):
    from dataclasses import asdict

    served.fall().release()
    for spec in (served.spec, replace(served.spec, map_id="0" * 32)):
        with pytest.raises(Fenced):
            served.control("switch", spec=asdict(spec))
    with pytest.raises(Fenced):
        served.control("resize", size=2 * SIZE)
    with pytest.raises(ReadOnly, match="another host"):
        lines.call(served.control_path, {"op": "handover"}, give=[os.open(os.devnull, os.O_RDONLY)])
    with served.raw() as raw:
        assert raw.write(0, b"x" * 4096) == p.ESHUTDOWN


def test_a_fence_that_does_not_concern_it(served):
    with served.raw() as raw:
        for text in ("7", "0", "nonsense", "", "-1"):
            served.fence_path.write_text(text)
            time.sleep(0.02)
        served.fence_path.write_text("7\n")
        assert raw.write(0, b"x" * 4096) == 0
        assert served.control("status")["fenced"] is False
        assert locks.is_held(served.lock_path)


def test_a_worker_that_comes_too_late(tmp_path):
    set_fence(tmp_path / "fence", 8)
    served = Fenceable(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path)
    with pytest.raises(Fenced):
        served.start()
    assert not locks.is_held(served.lock_path)


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("5\n", 5), (" 12 ", 12)])
def test_what_a_fence_says(tmp_path, text, value):
    (tmp_path / "fence").write_text(text)
    assert fence.read_fence(tmp_path / "fence") == value


def test_what_no_fence_says(tmp_path):
    assert fence.read_fence(tmp_path / "none") == 0
    for text in ("", "x", "1 2", "9" * 30, "-3"):
        (tmp_path / "fence").write_text(text)
        with pytest.raises(InvalidValue):
            fence.read_fence(tmp_path / "fence")

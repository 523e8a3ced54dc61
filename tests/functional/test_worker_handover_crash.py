# SPDX-License-Identifier: Apache-2.0
"""Hand-overs that fail at every point: whoever is left serves, and nothing is lost."""

import os
import random
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fisk_core import locks
from fisk_core.dataplane import control, lines
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.descriptors import receive, send
from fisk_core.dataplane.handover import take_charge
from fisk_core.dataplane.parcel import Delivery
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import Cancelled, FiskError, InvalidValue, PoolError
from tests.disks import USUAL, make_pool, make_spec
from tests.successors import SHARE, Load, Succeeded, content

SIZE = 32 << 20


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture
def served(zygote, tmp_path):
    with Succeeded(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as served:
        yield served


class Attempt(threading.Thread):
    """A hand-over that may fail."""

    def __init__(self, served, zygote):
        super().__init__()
        self._path, self._zygote, self.pid = served.control_path, zygote, 0
        self._before = children(zygote.pid)
        self.start()

    def run(self):
        with suppress(FiskError):
            self.pid, _ = self._zygote.succeed(self._path)

    def successor(self):
        """The process id of the successor, as soon as there is one."""
        while self.is_alive():
            if found := children(self._zygote.pid) - self._before:
                return found.pop()
        return 0

    def finish(self, old):
        """Give who serves now, 0 when nobody does; whoever ended is waited for."""
        self.join(20)
        assert not self.is_alive()
        left = [pid for pid in (old, self.pid) if pid and not ended(pid)]
        for pid in {old, self.pid} - {0, *left}:
            self._zygote.wait(pid)
        if len(left) == 2:  # the old one is on its way out
            assert self._zygote.wait(old) == 0
            return self.pid
        return left[0] if left else 0


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Impostor:
    """A successor played by the test, which stops where it likes."""

    def __init__(self, served):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.answer = None
        self._served, self._theirs = served, theirs
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        try:
            self.answer = lines.call(
                self._served.control_path, {"op": "handover"}, give=[self._theirs.detach()]
            )
        except FiskError as exc:
            self.answer = exc

    def finish(self):
        self.sock.close()
        self._thread.join()
        return self.answer


@pytest.mark.parametrize("receive", [False, True])
def test_a_successor_that_dies_before_it_is_ready(served, receive):
    load = Load(served, 0)
    load.start()
    for _ in range(5):
        impostor = Impostor(served)
        if receive:
            with Delivery(impostor.sock) as delivery:
                assert len(delivery.document["connections"]) == 1
        assert isinstance(impostor.finish(), PoolError)
    served.hand_over()
    load.finish()
    served.stop()
    assert content(served)[:SHARE] == load.expected


def test_a_successor_that_takes_too_long(served):
    """It is told so, whenever it comes to life."""
    with served.raw() as raw:
        impostor = Impostor(served)
        delivery = Delivery(impostor.sock)
        raw.send(p.CMD_WRITE, 0, 4, payload=b"wait")
        assert raw.reply().error == 0
        delivery.close()
        with pytest.raises(Cancelled):
            take_charge(impostor.sock)
        assert "in time" in str(impostor.finish())
        served.hand_over()
        assert raw.get(0, 4) == b"wait"


def test_a_hand_over_to_nobody(served):
    with pytest.raises(InvalidValue):
        control.call(served.control_path, {"op": "handover"})
    with pytest.raises(InvalidValue):
        control.call(served.control_path, {"op": "handover"}, give=[os.open(os.devnull, os.O_RDONLY)])
    served.hand_over()


@contextmanager
def between(served, zygote):
    """A real successor, and the test between it and the old worker; gives the two ends and its output."""
    impostor = Impostor(served)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid, output = zygote._request({"work": None}, [theirs.fileno()])
    with ours, output:
        yield impostor, ours, pid, output


def pass_on(source, target):
    data, fds = receive(source, 1 << 16)
    with fds:
        send(target, data, list(fds))


def die(served, zygote):
    os.kill(served.pid, signal.SIGKILL)
    assert zygote.wait(served.pid) == -signal.SIGKILL
    served._pid = 0


@pytest.mark.parametrize("ready", [False, True])
def test_an_old_worker_that_dies_when_everything_was_sent(served, zygote, ready):
    """The successor is left alone with everything, and serves; before or after it was ready."""
    with served.raw() as raw:
        assert raw.write(0, b"kept" * 1024) == 0
        with between(served, zygote) as (impostor, ours, pid, output):
            for _ in range(2):
                pass_on(impostor.sock, ours)
            if ready:
                assert ours.recv(64) == b"ready"
            die(served, zygote)
            ours.close()
            assert output.readline().startswith("nbd")
            served._pid = pid
            assert isinstance(impostor.finish(), PoolError)
        assert raw.get(0, 4096) == b"kept" * 1024
        assert raw.write(0, b"more" * 1024) == 0
        assert locks.is_held(served.lock_path)
        served.hand_over()
        assert raw.get(0, 4096) == b"more" * 1024


def test_an_old_worker_that_dies_while_it_sends(served, zygote):
    with served.raw() as raw:
        assert raw.write(0, b"kept" * 1024, p.CMD_FLAG_FUA) == 0
        with between(served, zygote) as (impostor, ours, pid, output):
            pass_on(impostor.sock, ours)  # the descriptors do not come any more
            die(served, zygote)
            ours.close()
            assert "went away" in output.read()
            assert zygote.wait(pid) == Cancelled.exit_status
            impostor.finish()
        assert raw.at_end()
    assert not locks.is_held(served.lock_path)
    served.start()
    with served.raw() as raw:
        assert raw.get(0, 4096) == b"kept" * 1024


def test_a_successor_told_to_go_back(served, zygote):
    """It leaves log and layer as they are, though it had opened them."""
    with served.raw() as raw:
        assert raw.write(0, b"kept" * 1024) == 0
        with between(served, zygote) as (impostor, ours, pid, output):
            for _ in range(2):
                pass_on(impostor.sock, ours)
            assert ours.recv(64) == b"ready"
            assert isinstance(impostor.finish(), PoolError)
            assert raw.write(4096, b"later" * 1024, p.CMD_FLAG_FUA) == 0
            before = files(served)
            ours.send(b"back")
            assert "took everything back" in output.read()
            assert zygote.wait(pid) == Cancelled.exit_status
        assert files(served) == before
        served.kill()
    served.start()
    with served.raw() as raw:
        assert raw.get(4096, 5120) == b"later" * 1024


def files(served):
    folder = Path(served.spec.pool["options"]["path"])
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("victim", ["old", "successor"])
def test_killed_at_any_moment(served, zygote, victim):
    """Whoever is left serves; if nobody is, a new worker finds what was flushed."""
    chance, survived = random.Random(3), 0
    for number in range(1, 16):
        with served.raw() as raw:
            assert raw.write(0, number.to_bytes(8, "big"), p.CMD_FLAG_FUA) == 0
            old = served.pid
            attempt = Attempt(served, zygote)
            time.sleep(chance.uniform(0, 0.02))
            target = old if victim == "old" else attempt.successor()
            if target:  # it may have come and gone already
                with suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
                while not ended(target):
                    time.sleep(0.001)
            served._pid = attempt.finish(old)
            survived += bool(served._pid)
            if not served.pid:
                served.start()
            elif victim == "successor" and served.pid == old:
                assert raw.get(0, 8) == number.to_bytes(8, "big")  # it never noticed
        with served.raw() as raw:
            assert raw.get(0, 8) == number.to_bytes(8, "big")
            assert served.control("status")["pid"] == served.pid
    assert survived

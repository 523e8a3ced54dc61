# SPDX-License-Identifier: Apache-2.0
"""A worker is replaced by another while clients use it: nobody is disconnected, nothing is lost."""

import os
import socket
import threading
import time

import pytest

from fisk_core import locks
from fisk_core.blockmap import consolidate
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.server import MAX_CONNECTIONS
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import FiskError
from tests.disks import USUAL, frozen, make_disk, make_pool, make_spec
from tests.successors import MIB, SHARE, Load, Succeeded, content
from tests.waiting import open_files, settled

SIZE = 32 << 20


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture
def served(zygote, tmp_path):
    with Succeeded(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as served:
        yield served


def test_many_busy_clients_and_many_successors(served):
    loads = [Load(served, number, number % 2 == 1) for number in range(12)]
    for load in loads:
        load.start()
    pids = {served.pid}
    for _ in range(10):
        time.sleep(0.05)
        served.hand_over()
        pids.add(served.pid)
        assert served.control("status")["pid"] == served.pid
        assert locks.is_held(served.lock_path)
    for load in loads:
        load.finish()
    assert len(pids) == 11
    served.stop()
    assert not locks.is_held(served.lock_path)
    data = content(served)
    for load in loads:
        assert data[load.base : load.base + SHARE] == load.expected


def test_a_hand_over_is_all_or_nothing_for_negotiation_too(served):
    """Clients at every point of negotiation: they end up in transmission as if nothing had happened."""
    contexts = (p.CONTEXT_ALLOCATION,)
    silent = served.raw(greet=False)
    greeted = served.raw(go=False)
    agreed = served.raw(go=False, structured=True, contexts=contexts)
    halfway = served.raw(go=False, structured=True)
    option = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, 6) + bytes(6)
    halfway.sock.sendall(option[:19])
    cut = served.raw(greet=False)
    cut.sock.sendall(b"\0\0")
    with silent, greeted, agreed, halfway, cut:
        for _ in range(2):
            served.hand_over()
        silent._greet(False, (), True, 3)
        cut.sock.sendall(b"\0\3")
        assert greeted.go()[-1][0] == p.REP_ACK
        assert cut.go()[-1][0] == p.REP_ACK
        assert agreed.go()[-1][0] == p.REP_ACK
        halfway.sock.sendall(option[19:])
        while halfway.option_reply(p.OPT_GO)[0] != p.REP_ACK:
            pass
        for raw in (silent, greeted, agreed, halfway, cut):
            assert raw.works()
        assert agreed.status(0, 4096) == {1: [(4096, p.STATE_HOLE | p.STATE_ZERO)]}


def test_half_a_request_and_half_a_reply(served):
    data = os.urandom(8 * MIB)
    with served.raw() as writer, served.raw() as reader, served.raw() as stray:
        writer.send(p.CMD_WRITE, 0, len(data), 0, b"")
        writer.sock.sendall(data[: 3 * MIB + 5])
        assert reader.write(16 * MIB, data) == 0
        for _ in range(6):  # nobody takes the answers
            reader.send(p.CMD_READ, 16 * MIB, len(data))
        stray.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 77, 8 * MIB + 5, 200_000)[:20])
        for _ in range(2):
            served.hand_over()
        writer.sock.sendall(data[3 * MIB + 5 :])
        assert writer.reply().error == 0
        assert writer.get(0, len(data)) == data
        for _ in range(6):
            assert reader.reply().data == data
        stray.lengths[77] = (0, 0)
        stray.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 77, 8 * MIB + 5, 200_000)[20:])
        stray.sock.sendall(data[:150_000])
        served.hand_over()
        stray.sock.sendall(data[150_000:200_000])
        assert stray.reply().error == 0
        assert writer.get(8 * MIB + 5, 200_000) == data[:200_000]


def test_a_refused_write_is_still_refused_behind(served):
    with served.raw() as raw:
        raw.send(p.CMD_WRITE, SIZE, MIB, 0, b"")
        raw.sock.sendall(bytes(MIB // 2))
        served.hand_over()
        raw.sock.sendall(bytes(MIB // 2))
        assert raw.reply().error == p.ENOSPC
        raw.send(p.CMD_WRITE, 0, 33 * MIB, 0, b"")
        raw.sock.sendall(bytes(10 * MIB))
        served.hand_over()
        raw.sock.sendall(bytes(23 * MIB))
        assert raw.reply().error == p.EINVAL
        assert raw.works()


def test_a_good_bye_with_answers_to_take(served):
    with served.raw() as raw:
        raw.send(p.CMD_READ, 0, 32 * MIB)
        raw.send(p.CMD_DISC)
        served.hand_over()
        assert len(raw.reply().data) == 32 * MIB
        assert raw.at_end()


def test_a_reader_of_a_frozen_fisk(zygote, tmp_path):
    pool = make_pool(tmp_path / "pool")
    with make_disk(pool, SIZE, USUAL) as disk:
        disk.write(0, b"frozen" * 1000)
        spec = frozen(disk.spec)
    consolidate(pool, spec.map_id, SIZE)
    with Succeeded(spec, tmp_path, zygote) as served, served.raw() as raw:
        for _ in range(3):
            served.hand_over()
            assert raw.get(0, 6000) == b"frozen" * 1000
            assert raw.write(0, b"x") == p.EPERM


def test_what_was_changed_meanwhile_comes_along(served, tmp_path):
    """The successor goes on with the size of now, not with that of the start."""
    with served.raw() as raw:
        served.control("resize", size=2 * SIZE)
        served.hand_over()
        assert raw.write(2 * SIZE - 4096, b"e" * 4096) == 0
        assert served.control("status")["size"] == 2 * SIZE
        assert raw.call(p.CMD_FLUSH).error == 0


def test_a_paused_worker_is_handed_over_paused(served):
    with served.raw() as raw:
        served.control("pause")
        raw.send(p.CMD_WRITE, 0, 4, payload=b"wait")
        served.hand_over()
        raw.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.reply()
        served.control("resume")
        raw.sock.settimeout(10)
        assert raw.reply().error == 0
        assert raw.get(0, 4) == b"wait"


def test_clients_that_wait_for_their_turn(served):
    """Requests held back by a limit move with their connections."""
    with served.raw() as raw:
        served.control("attributes", attributes={"qos.total_iops": "40", "qos.total_iops_burst": "1"})
        cookies = [raw.send(p.CMD_WRITE, n * 4096, 4096, payload=b"t" * 4096) for n in range(20)]
        for _ in range(3):
            served.hand_over()
        assert served.control("status")["attributes"]["qos.total_iops"] == "40"
        answered = [raw.reply() for _ in cookies]
        assert [(reply.cookie, reply.error) for reply in answered] == [(cookie, 0) for cookie in cookies]
        served.control("attributes", attributes={})
        assert raw.get(0, 20 * 4096) == b"t" * 20 * 4096


def test_supervisors_are_kept_too(served):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(served.control_path)
        sock.sendall(b'{"op": "barrier"}\n{"op": ')
        with sock.makefile("rb") as answers:
            assert answers.readline() == b'{"ok": true}\n'
            served.hand_over()
            sock.sendall(b'"barrier"}\n')
            assert answers.readline() == b'{"ok": true}\n'


def test_a_socket_on_its_way_comes_along(served):
    """Its descriptor arrived, the rest of the request has not."""
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as sock, ours:
        sock.connect(served.control_path)
        with theirs:
            socket.send_fds(sock, [b'{"op": "connection", '], [theirs.fileno()])
        for _ in range(2):
            served.hand_over()
        sock.sendall(b'"name": "x"}\n')
        with sock.makefile("rb") as answers:
            assert answers.readline() == b'{"ok": true}\n'
        ours.settimeout(10)
        assert len(ours.recv(100)) == p.HELLO.size


def test_as_many_clients_as_there_may_be(served):
    clients = [served.raw() for _ in range(MAX_CONNECTIONS)]
    try:
        for _ in range(2):
            served.hand_over()
        assert served.control("status")["connections"] == MAX_CONNECTIONS
        assert all(raw.works() for raw in clients)
    finally:
        for raw in clients:
            raw.close()


def test_control_requests_never_fail_while_workers_change(served):
    stop, failures = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                served.control("barrier")
            except FiskError as exc:
                failures.append(exc)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for _ in range(6):
        served.hand_over()
    stop.set()
    for thread in asking:
        thread.join()
    assert failures == []


def test_new_clients_come_in_all_the_time(served):
    stop, failures, count = threading.Event(), [], [0]

    def connect():
        while not stop.is_set():
            try:
                with served.raw(structured=True) as raw:
                    assert raw.works()
                    count[0] += 1
            except Exception as exc:  # whatever it is, the test reports it
                failures.append(exc)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        served.hand_over()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert count[0] > 6


def test_descriptors_and_memory_do_not_grow(served):
    clients = [served.raw() for _ in range(20)]
    served.hand_over()
    before = open_files(served.pid)
    for _ in range(3):
        served.hand_over()
    assert all(raw.works() for raw in clients)
    settled(served.pid, before)
    for raw in clients:
        raw.close()

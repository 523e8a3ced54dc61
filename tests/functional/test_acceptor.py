# SPDX-License-Identifier: Apache-2.0
"""Clients from the network: who gets in, who does not, and what hostile ones can do."""

import os
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

from fisk_core.dataplane import acceptor, lines, routes
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.negotiation import MAX_OPTION
from fisk_core.dataplane.reception import MAX_OPTIONS
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import FiskError, InUse, InvalidValue, NotFound
from tests.acceptors import FLAGS, TOKEN, Accepted
from tests.disks import USUAL, make_pool, make_spec
from tests.nbd_servers import need
from tests.servers import Forked, info_request, queries
from tests.waiting import open_files, until

SIZE = 64 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture(scope="module")
def served(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    with Forked(make_spec(make_pool(folder / "pool"), SIZE, USUAL), folder, zygote) as served:
        yield served


@pytest.fixture(scope="module")
def accepted(served, tmp_path_factory):
    accepted = Accepted(tmp_path_factory.mktemp("a"))
    accepted.admit(served)
    yield accepted
    accepted.close()


# Who gets in


@pytest.mark.parametrize("structured", [False, True])
def test_the_right_token(accepted, structured):
    with accepted.raw(structured=structured, name=TOKEN) as raw:
        assert raw.write(0, b"by the front door") == 0
        assert raw.get(0, 17) == b"by the front door"


def test_a_token_by_every_option_that_names_an_export(accepted):
    with accepted.raw(structured=True) as raw:
        assert raw.option(p.OPT_INFO, info_request(TOKEN))[-1][0] == p.REP_ACK
        assert raw.go(TOKEN)[-1][0] == p.REP_ACK
        assert raw.works()
    for option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
        with accepted.raw(structured=True) as raw:
            replies = raw.option(option, queries(TOKEN, p.CONTEXT_ALLOCATION))
            assert [kind for kind, _ in replies] == [p.REP_META_CONTEXT, p.REP_ACK]
            assert raw.go(TOKEN)[-1][0] == p.REP_ACK
            assert raw.works()
    with accepted.raw() as raw:
        raw.put_option(p.OPT_EXPORT_NAME, TOKEN.encode())
        size, _ = p.EXPORT_NAME_REPLY.unpack(raw.read(p.EXPORT_NAME_REPLY.size))
        assert size == SIZE
        assert raw.works()


def test_everything_at_once(accepted):
    """A client that waits for no answer: what it sent behind the name reaches the worker too."""
    option = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0)
    data = info_request(TOKEN)
    go = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, len(data)) + data
    write = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 40_000) + b"e" * 40_000
    read = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 2, 0, 40_000)
    with accepted.raw(greet=False) as raw:
        raw.sock.sendall(p.CLIENT_FLAGS.pack(FLAGS) + option + go + write + read)
        assert raw.option_reply(p.OPT_STRUCTURED_REPLY) == (p.REP_ACK, b"")
        while raw.option_reply(p.OPT_GO)[0] != p.REP_ACK:
            pass
        raw.lengths = {1: (0, 0), 2: (0, 40_000)}
        assert raw.reply().cookie == 1
        assert raw.reply().data == b"e" * 40_000


def test_wrong_tokens(accepted):
    with accepted.raw(structured=True) as raw:
        for name in (
            "",
            "test",
            TOKEN[:-1],
            TOKEN + "x",
            TOKEN.lower(),
            "../" + TOKEN,
            "x" * 4096,
            b"\xff\0",
        ):
            [(kind, text)] = raw.go(name)
            assert (kind, text) == (p.REP_ERR_UNKNOWN, b"there is no such export")
            assert raw.option(p.OPT_INFO, info_request(name))[-1][0] == p.REP_ERR_UNKNOWN
            assert raw.option(p.OPT_SET_META_CONTEXT, queries(name))[-1][0] == p.REP_ERR_UNKNOWN
        assert raw.go(TOKEN)[-1][0] == p.REP_ACK
        assert raw.works()
    with accepted.raw() as raw:
        raw.put_option(p.OPT_EXPORT_NAME, b"wrong")
        assert raw.at_end()


def test_nothing_is_listed(accepted):
    with accepted.raw() as raw:
        assert raw.option(p.OPT_LIST)[0][0] == p.REP_ERR_POLICY
        assert raw.option(p.OPT_STARTTLS)[0][0] == p.REP_ERR_POLICY
        assert raw.option(77)[0][0] == p.REP_ERR_UNSUP
        assert raw.option(p.OPT_ABORT) == [(p.REP_ACK, b"")]
        assert raw.at_end()


def test_a_token_withdrawn(accepted, served):
    accepted.admit(served, "other")
    with accepted.raw(name="other") as raw:
        routes.withdraw(accepted.exports, "other")
        routes.withdraw(accepted.exports, "other")
        assert raw.works()
    with accepted.raw() as raw:
        assert raw.go("other")[-1][0] == p.REP_ERR_UNKNOWN


def test_a_route_that_is_none(accepted):
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"control": 1}'):
        routes._path(accepted.exports, b"broken").write_bytes(content)
        with accepted.raw() as raw:
            assert raw.go("broken")[-1][0] == p.REP_ERR_UNKNOWN
    routes.withdraw(accepted.exports, "broken")


def test_a_reader_of_a_live_disk(accepted, served):
    accepted.admit(served, "reader", read_only=True)
    with accepted.raw(name="reader") as raw:
        assert raw.write(0, b"x") == p.EPERM
        assert raw.works()
    with NbdClient.connect(accepted.uri("reader")) as client:
        assert client.read_only


def test_other_clients(accepted, tmp_path):
    need("nbdinfo", "nbdcopy", "qemu-img")
    (tmp_path / "image").write_bytes(os.urandom(MIB) + bytes(MIB))
    uri = accepted.uri()

    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert run("nbdinfo", "--size", uri).strip() == str(SIZE)
    run("nbdcopy", "--connections=4", str(tmp_path / "image"), uri)
    run("nbdcopy", "--connections=4", uri, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes()[: 2 * MIB] == (tmp_path / "image").read_bytes()
    assert "base:allocation" in run("nbdinfo", uri)
    assert str(SIZE) in run("qemu-img", "info", "--output=json", uri)
    failed = subprocess.run(["nbdinfo", "--list", f"nbd://127.0.0.1:{accepted.port}"], capture_output=True)
    assert failed.returncode != 0
    assert TOKEN.encode() not in failed.stdout + failed.stderr


# A worker that is not there


def test_a_worker_that_comes_back(accepted, served, zygote, tmp_path):
    with Forked(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as other:
        accepted.admit(other, "again")
        other.kill()
        with accepted.raw() as raw:
            raw.put_option(p.OPT_GO, info_request("again"))
            other.start()
            while raw.option_reply(p.OPT_GO)[0] != p.REP_ACK:
                pass
            assert raw.works()


def test_a_worker_that_refuses(accepted, zygote, tmp_path):
    with Forked(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as other:
        accepted.admit(other, "refused")
        with other.raw() as raw:
            # Half a request keeps the drain under way.
            raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 4096) + b"half")
            draining = threading.Thread(target=lambda: drained(other))
            draining.start()
            until(lambda: other.control("status")["refusing"])
            with accepted.raw() as late:
                late.put_option(p.OPT_GO, info_request("refused"))
                assert late.at_end()
            raw.close()
            draining.join()
            pid, other._pid = other._pid, 0
            assert zygote.wait(pid) == 0


def drained(served):
    served.control("drain", seconds=20)


# Hostile clients


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 100,
        p.CLIENT_FLAGS.pack(FLAGS) + b"x" * 16,
        p.CLIENT_FLAGS.pack(0xFFFFFFFF),
        os.urandom(3000),
    ],
)
def test_garbage(accepted, garbage):
    with accepted.raw(greet=False) as raw:
        raw.sock.sendall(garbage)
        assert raw.at_end()


def test_early_ends(accepted):
    before = accepted.files()
    good = p.CLIENT_FLAGS.pack(FLAGS) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, 50) + info_request(TOKEN)
    for length in (0, 2, 4, 10, 20, 40, len(good)):
        for number in range(4):
            with socket.create_connection((accepted.host, accepted.port), 20) as sock:
                if number % 2:
                    sock.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                    )  # ends by a reset
                sock.sendall(good[:length])
    until(lambda: accepted.files() <= before)
    assert accepted.control("status")["half_open"] == 0


def test_options_longer_than_any(accepted):
    with accepted.raw() as raw:
        raw.put_option(99, bytes(MAX_OPTION + 1000))
        assert raw.option_reply(99)[0] == p.REP_ERR_TOO_BIG
        raw.sock.sendall(p.OPTION.pack(p.OPTION_MAGIC, 99, 0xFFFFFFFF))
        for _ in range(20):
            raw.sock.sendall(bytes(1 << 20))
        with accepted.raw(name=TOKEN) as other:
            assert other.works()


def test_a_client_that_never_comes_to_the_point(accepted):
    with accepted.raw() as raw:
        with pytest.raises((EOFError, ConnectionError)):
            ask_for_ever(raw)
        assert raw.cookie <= MAX_OPTIONS


def ask_for_ever(raw):
    while True:
        raw.option(p.OPT_LIST)
        raw.cookie += 1


def test_a_client_that_takes_no_answers(accepted):
    """What the acceptor holds for it is bounded, and the others are served."""
    question = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_LIST, 0)
    with accepted.raw() as raw:
        raw.sock.settimeout(0.3)
        with pytest.raises(OSError, match=r"."):
            raw.sock.sendall(question * 1_000_000)
        with accepted.raw(name=TOKEN) as other:
            assert other.works()


def test_more_clients_than_are_let_in_at_once(accepted):
    """The oldest of those who say nothing give way to who means it."""
    before = accepted.files()
    silent = [socket.create_connection((accepted.host, accepted.port), 20) for _ in range(200)]
    with accepted.raw(name=TOKEN) as raw:
        assert raw.works()
        assert accepted.control("status")["half_open"] <= acceptor.MAX_HALF_OPEN
        assert accepted.files() < before + acceptor.MAX_HALF_OPEN + 10
        silent[0].recv(p.HELLO.size)
        assert silent[0].recv(1) == b""
    for sock in silent:
        sock.close()
    until(lambda: accepted.files() <= before)


def test_two_hundred_clients(accepted, served):
    before, worker = accepted.files(), open_files(served.pid)
    clients = []
    try:
        for number in range(200):
            clients.append(accepted.raw(structured=number % 2 == 0, name=TOKEN))
            assert clients[-1].write(number * 4096, number.to_bytes(2, "big") * 2048) == 0
        for number, raw in enumerate(clients):
            assert raw.get(number * 4096, 4096) == number.to_bytes(2, "big") * 2048
        until(lambda: accepted.files() <= before)  # nothing of it goes through the acceptor
    finally:
        for raw in clients:
            raw.close()
    until(lambda: open_files(served.pid) <= worker)


def test_an_acceptor_without_descriptors_left_rests(served, tmp_path):
    accepted = Accepted(tmp_path)
    accepted.admit(served)
    limit = accepted.files() + 4
    _, hard = resource.prlimit(accepted.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(accepted.process.pid, resource.RLIMIT_NOFILE, (limit, hard))
    silent = [socket.create_connection((accepted.host, accepted.port), 20) for _ in range(6)]
    for sock in silent[:4]:
        assert sock.recv(p.HELLO.size)
    for sock in silent:
        sock.close()
    resource.prlimit(accepted.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    with accepted.raw(name=TOKEN) as raw:
        assert raw.works()
    accepted.close()


# Its own life


def test_one_acceptor_at_a_place(accepted, tmp_path):
    options = acceptor.AcceptorOptions(("127.0.0.1", accepted.port), str(tmp_path), str(tmp_path / "ctl"))
    with pytest.raises(InUse):
        acceptor.start(options)
    options = acceptor.AcceptorOptions(("127.0.0.1", 0), str(tmp_path), accepted.control_path)
    with pytest.raises(InUse):
        acceptor.start(options)
    with accepted.raw(name=TOKEN) as raw:
        assert raw.works()


def test_requests_that_make_no_sense(accepted):
    for request in ({"op": "fly"}, {}, {"op": "handover"}, {"op": ["status"]}):
        with pytest.raises(InvalidValue):
            lines.call(accepted.control_path, request)


def test_stop(tmp_path):
    accepted = Accepted(tmp_path)
    accepted.control("stop")
    assert accepted.process.wait(20) == 0
    with pytest.raises(NotFound):
        accepted.control("status")
    accepted.start(succeed=True)  # there is none to succeed: it begins anew
    accepted.close()


def test_a_successor_takes_the_listeners(served, tmp_path):
    accepted = Accepted(tmp_path)
    accepted.admit(served)
    port, failures, stop = accepted.port, [], threading.Event()

    def connect():
        while not stop.is_set():
            try:
                with accepted.raw(name=TOKEN) as raw:
                    assert raw.works()
            except Exception as exc:  # whatever it is, the test reports it
                failures.append(exc)

    threads = [threading.Thread(target=connect) for _ in range(3)]
    for thread in threads:
        thread.start()
    with accepted.raw() as half:
        for _ in range(3):
            time.sleep(0.05)
            accepted.succeed()
            assert accepted.port == port
            assert accepted.control("status")["pid"] == accepted.process.pid
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert accepted.old[0].poll() is None  # it has a client half let in
        assert half.go(TOKEN)[-1][0] == p.REP_ACK
        assert half.works()
    assert [process.wait(20) for process in accepted.old] == [0, 0, 0]
    accepted.close()


def test_a_successor_that_dies_halfway(accepted):
    for _ in range(3):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with lines.ask(accepted.control_path, {"op": "handover"}, give=[theirs.detach()]) as asked:
            ours.close()
            with pytest.raises(FiskError):
                lines.hear(asked, accepted.control_path)
    with accepted.raw(name=TOKEN) as raw:
        assert raw.works()


def test_clients_outlive_the_acceptor(served, tmp_path):
    accepted = Accepted(tmp_path)
    accepted.admit(served)
    with accepted.raw(name=TOKEN) as raw:
        os.kill(accepted.process.pid, signal.SIGKILL)
        accepted.process.wait()
        assert raw.works()
        port = accepted.port
        accepted.start(port=port)
        with accepted.raw(name=TOKEN) as another:
            assert another.works()
    accepted.close()

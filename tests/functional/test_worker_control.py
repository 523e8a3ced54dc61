# SPDX-License-Identifier: Apache-2.0
"""What a supervisor asks of a worker: sockets taken over, growth its clients see, an orderly end."""

import base64
import json
import os
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import fisk_core
from fisk_core.dataplane import control
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.server import ServeOptions
from fisk_core.errors import FiskError, InUse, InvalidValue
from tests.disks import USUAL, frozen, make_pool, make_spec
from tests.nbd_servers import need
from tests.servers import Raw, Served, info_request
from tests.waiting import open_files, settled

SIZE = 8 << 20


@pytest.fixture
def served(tmp_path):
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path) as served:
        yield served


class Passed(Raw):
    """A client whose socket is given to the worker, with what was said before."""

    def __init__(self, served, received=b"", said=0, **fields):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        self.cookie, self.lengths = 0, {}
        text = base64.b64encode(received).decode()
        request = {"op": "connection", "received": text, "said": said, **fields}
        try:
            control.call(served.control_path, request, give=[theirs.detach()])
        except BaseException:
            self.sock.close()
            raise


def replies(raw):
    """Give the cookies of replies until the server hangs up."""
    try:
        while True:
            yield raw.reply().cookie
    except (EOFError, ConnectionError):
        return


FLAGS = p.CLIENT_FLAGS.pack(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)
STRUCTURED = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0)


def go(name):
    data = info_request(name)
    return p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, len(data)) + data


def test_a_socket_passed_at_its_very_beginning(served):
    with Passed(served, name="secret") as raw:
        assert p.HELLO.unpack(raw.read(p.HELLO.size))[0] == p.INIT_MAGIC
        raw._greet(True, (), False, p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)
        assert raw.go("other")[-1][0] == p.REP_ERR_UNKNOWN
        assert raw.option(p.OPT_LIST)[-1][0] == p.REP_ERR_POLICY
        replies = raw.go("secret", p.INFO_NAME, p.INFO_DESCRIPTION)
        assert replies[0] == (p.REP_INFO, p.INFO_NAME.to_bytes(2, "big") + b"secret")
        assert b"test" not in replies[1][1]
        assert raw.works()


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("cut", [4, 10, 21, 1000])
def test_what_was_said_is_not_said_again(served, structured, cut):
    """The client's bytes come partly with the descriptor, partly by the socket."""
    before = FLAGS + (STRUCTURED if structured else b"")
    request = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 1, 0, 512)
    everything = before + go("secret") + request
    cut = max(cut, len(before))
    said = p.HELLO.size + (p.OPTION_REPLY.size if structured else 0)
    with Passed(served, everything[:cut], said, name="secret") as raw:
        raw.sock.sendall(everything[cut:])
        while raw.option_reply(p.OPT_GO)[0] != p.REP_ACK:
            pass
        raw.lengths[1] = (0, 512)
        reply = raw.reply()
        assert (reply.cookie, reply.data, bool(reply.chunks)) == (1, bytes(512), structured)


def test_a_client_let_in_to_read_cannot_write(served):
    with Passed(served, FLAGS + go("reader"), p.HELLO.size, name="reader", read_only=True) as raw:
        infos = [raw.option_reply(p.OPT_GO) for _ in range(3)]
        flags = p.INFO_EXPORT_DATA.unpack(infos[1][1])[2]
        assert flags & p.TFLAG_READ_ONLY
        assert not flags & p.TFLAG_SEND_TRIM
        for length in (512, 4096, 1 << 20):
            assert raw.write(0, b"w" * length) == p.EPERM
        assert raw.call(p.CMD_TRIM, 0, 4096).error == p.EPERM
        with served.raw() as other:
            assert other.write(0, b"from another") == 0
        assert raw.get(0, 12) == b"from another"
        assert raw.call(p.CMD_FLUSH).error == 0


def test_descriptors_never_stay_behind(served):
    assert served.control("status")["connections"] == 0
    before = open_files(served.pid)
    wrong = [{"received": "*"}, {"said": "x"}, {"said": -1}, {"said": float("inf")}, {"received": 5}]
    for fields in wrong:
        ours, theirs = socket.socketpair()
        with ours, pytest.raises(InvalidValue):
            control.call(served.control_path, {"op": "connection", **fields}, give=[theirs.detach()])
    for op in ("status", "barrier", "fly"):
        for _ in range(3):
            given = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
            try:
                control.call(served.control_path, {"op": op}, give=given)
            except InvalidValue:
                assert op == "fly"
    with pytest.raises(InvalidValue, match="without the descriptor"):
        control.call(served.control_path, {"op": "connection"})
    with pytest.raises(InvalidValue, match="not that of a socket"):
        control.call(served.control_path, {"op": "connection"}, give=[os.open("/dev/null", os.O_RDONLY)])
    with socket.socket(socket.AF_UNIX) as sock:  # a request that never ends, with descriptors
        sock.connect(served.control_path)
        given = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        for _ in range(10):
            try:
                socket.send_fds(sock, [b'{"op":'], given)
            except OSError:
                break
        for fd in given:
            os.close(fd)
    for _ in range(20):
        with Passed(served, FLAGS + go("x"), p.HELLO.size, name="x") as raw:
            raw.option_reply(p.OPT_GO)
    settled(served.pid, before)


def test_status_says_who_serves_what(served):
    status = served.control("status")
    assert status["version"] == fisk_core.__version__
    assert status["host_pid"] == served.pid
    assert (status["epoch"], status["fenced"], status["attributes"]) == (None, False, {})
    assert 0 <= time.time() - status["started"] < 60


def test_clients_come_back_to_a_larger_disk(served):
    with served.raw() as idle, served.raw() as busy, served.raw(go=False) as greeting:
        cookies = [busy.send(p.CMD_WRITE, n * 4096, 4096, p.CMD_FLAG_FUA, b"g" * 4096) for n in range(8)]
        assert served.control("resize", size=2 * SIZE, drop=True) == {}
        assert idle.at_end()
        assert greeting.at_end()
        answered = list(replies(busy))
        assert set(answered) <= set(cookies)
    with served.connect() as client:
        assert client.size == 2 * SIZE
        assert client.read(0, 4096 * len(answered)) == b"g" * 4096 * len(answered)


class Qemu:
    """A QEMU without a guest: the disk as a block node, which it also exports."""

    def __init__(self, served, folder):
        self.path = str(folder / "export")
        server = {"type": "unix", "path": served.path}
        node = {
            "driver": "nbd",
            "node-name": "disk",
            "server": server,
            "export": "test",
            "reconnect-delay": 20,
        }
        command = [
            "qemu-storage-daemon", "--chardev", "stdio,id=talk", "--monitor", "chardev=talk",
            "--blockdev", json.dumps(node), "--nbd-server", f"addr.type=unix,addr.path={self.path}",
        ]  # fmt: skip
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.process.stdout.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.process.stdin, flush=True)
        while True:
            answer = json.loads(self.process.stdout.readline())
            if "return" in answer or "error" in answer:
                return answer

    def poke(self):
        """Have the node read something."""
        export = {"type": "nbd", "id": "e", "node-name": "disk"}
        assert "return" in self.call("block-export-add", **export)
        with NbdClient.connect(f"nbd+unix:///disk?socket={self.path}") as client:
            client.read(0, 512)
        self.call("block-export-del", id="e", mode="hard")

    def grow(self, size):
        return self.call("block_resize", **{"node-name": "disk", "size": size})

    def close(self):
        self.call("quit")
        self.process.communicate(timeout=20)


def test_qemu_grows_with_the_disk(served, tmp_path):
    need("qemu-storage-daemon")
    qemu = Qemu(served, tmp_path)
    try:
        assert "error" in qemu.grow(2 * SIZE)
        served.control("resize", size=2 * SIZE, drop=True)
        qemu.poke()
        for _ in range(200):
            if "return" in qemu.grow(2 * SIZE):
                break
            time.sleep(0.02)
        else:
            raise AssertionError("QEMU never sees the size")
    finally:
        qemu.close()


def test_draining_answers_first(served):
    data, errors = os.urandom(4096), []
    with served.raw() as raw, served.raw() as idle:
        for number in range(200):
            raw.send(p.CMD_WRITE, number * 4096, 4096, payload=data)
        drain = threading.Thread(target=lambda: errors.append(served.control("drain", seconds=10)))
        drain.start()
        assert [raw.reply().error for _ in range(200)] == [0] * 200
        drain.join()
        assert errors == [{}]
        assert raw.at_end()
        assert idle.at_end()
    served.worker.wait_ended()
    with Disk.open(make_pool_again(served), frozen(served.spec)) as disk:
        assert disk.read(0, 200 * 4096) == data * 200


def make_pool_again(served):
    from fisk_core.pools import open_pool

    return open_pool(served.spec.pool)


def test_draining_waits_no_longer_than_asked_for_a_client_that_goes_on(served):
    with served.raw() as raw:
        raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 4096) + b"half")
        served.control("drain", seconds=0.05)
        assert raw.at_end()


def test_a_worker_that_is_drained_can_be_asked(tmp_path):
    spec = make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL)
    with Served(spec, tmp_path, ServeOptions(listen=("127.0.0.1", 0))) as served, served.raw() as raw:
        raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 4096) + b"half")
        drain = threading.Thread(target=served.control, args=("drain",), kwargs={"seconds": 20})
        drain.start()
        while not served.control("status")["refusing"]:
            time.sleep(0.01)
        raw.close()
        drain.join()


def test_nobody_comes_in_while_draining(served):
    with served.raw() as raw:
        raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 4096) + b"half")
        drain = threading.Thread(target=served.control, args=("drain",), kwargs={"seconds": 5})
        drain.start()
        while True:
            try:
                served.raw().close()
            except ConnectionRefusedError:
                break
            except (EOFError, ConnectionError):
                continue
        with pytest.raises(InUse, match="drained"):
            Passed(served)
        with pytest.raises(InUse, match="drained"):
            served.control("drain", seconds=5)
        raw.lengths[1] = (0, 0)
        raw.sock.sendall(bytes(4092))
        assert raw.reply().error == 0
        drain.join()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_without_descriptors_left_rests(served):
    with served.raw() as first:
        limit = open_files(served.pid) + 4
        usual = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
        clients = []
        for _ in range(10):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(10)
            sock.connect(served.path)
            clients.append(sock)
        for sock in clients[:4]:
            assert len(sock.recv(p.HELLO.size)) == p.HELLO.size
        before = cpu_seconds(served.pid)
        for _ in range(50):  # it still serves those it has
            assert first.works()
            time.sleep(0.01)
        assert cpu_seconds(served.pid) - before < 0.4
        for number, sock in enumerate(clients[4:]):
            clients[number].close()
            assert len(sock.recv(p.HELLO.size)) == p.HELLO.size
        for sock in clients:
            sock.close()
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, usual)


def test_a_request_with_a_descriptor_behind_one_without(served):
    """Sent together: each gets what is its own."""
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as sock, ours, theirs:
        sock.connect(served.control_path)
        sock.sendall(b'{"op": "barrier"}\n')
        socket.send_fds(sock, [b'{"op": "connection", '], [theirs.fileno()])
        sock.sendall(b'"name": "x"}\n{"op": "barrier"}\n')
        with sock.makefile("rb") as lines:
            assert [lines.readline() for _ in range(3)] == [b'{"ok": true}\n'] * 3
        ours.settimeout(10)
        assert len(ours.recv(100)) == p.HELLO.size


def test_a_worker_that_was_told_nothing_sensible_goes_on(served):
    for fields in ({"seconds": "long"}, {"seconds": None}):
        with pytest.raises(FiskError):
            served.control("drain", **fields)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(served.control_path)
        sock.sendall(b'{"op": "resize", "size": Infinity}\n' + b"[" * 100_000 + b"\n")
        with sock.makefile("rb") as lines:
            assert [json.loads(lines.readline())["ok"] for _ in range(2)] == [False, False]
    with served.raw() as raw:
        assert raw.works()

# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.sockets ORDER``: conversations by the thousand with a real worker and acceptor.

Several at a time, over a unix socket and over TCP, where clients leave in the middle, say nothing, one byte
at a time, or rubbish under TLS.  After each batch a client that behaves must be served at once; memory and
descriptors of both processes stay bounded; in the end the data is what it was.
"""

import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fisk_core.dataplane import acceptor, routes
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import TlsOptions
from proof.hostile.grammar import World, conversation
from proof.hostile.inside import Order, end_in_order, mutate, seeds_in
from proof.hostile.judge import CHANGES, Asked, Broken, Judge, Offer, Shadow, Verdict, require
from proof.hostile.target import NAME, SIZE, TOKEN, Scene, scene, try_receive, try_send

BATCH = 24
ANSWER_SECONDS = 20.0
"""in which a client that behaves must have been served; generous, for the machine may be busy"""
_LINGERING = 60
_LOOKS = 0.004  # seconds without news after which the judge is asked whether anything is missing
Address = str | tuple[str, int]


@dataclass
class Report:
    """What came of it."""

    conversations: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    """bytes of memory, of the worker or the acceptor, at most"""
    descriptors: int = 0
    """open in both at the end that were not at the beginning"""
    slowest: float = 0.0
    """seconds that a client which behaves waited, at most"""
    broken: str = ""
    input: str = ""


@dataclass
class Field:
    """The processes under attack."""

    scene: Scene
    worker: Worker
    acceptors: "list[subprocess.Popen[str]]"
    unix: str
    tcp: tuple[str, int]
    tls: tuple[str, int]

    @property
    def pids(self) -> list[int]:
        return [self.worker.pid, *(each.pid for each in self.acceptors)]

    def check_alive(self) -> None:
        for each in self.acceptors:
            require(each.poll() is None, f"the acceptor ended with {each.poll()}")
        require(os.waitid(os.P_PID, self.worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None,
                "the worker ended")  # fmt: skip


@contextmanager
def field_of(home: Path) -> Iterator[Field]:
    """Start a worker and two acceptors, one of them with TLS."""
    from tests.nbd_servers import make_certificates

    with ExitStack() as stack:
        made = stack.enter_context(scene(home))
        (exports := home / "x").mkdir()
        make_certificates(home / "tls")
        lock = stack.enter_context(made.engine.acquire(NAME, True))
        options = ServeOptions(unix=str(home / "n"), control=str(home / "c"), export=NAME, announce=True)
        spec = made.engine.disk_spec(NAME, False)
        worker = stack.enter_context(start_worker(spec, lock_fd=lock.fd, options=options))
        routes.publish(exports, TOKEN, routes.Route(str(home / "c"), False))
        acceptors, addresses = [], []
        for number, tls in enumerate((None, TlsOptions(str(home / "tls")))):
            control = str(home / f"a{number}")
            process, address = acceptor.start(
                acceptor.AcceptorOptions(("127.0.0.1", 0), str(exports), control, tls)
            )
            stack.callback(_end, process)
            acceptors.append(process)
            addresses.append(address)
        yield Field(made, worker, acceptors, str(home / "n"), *addresses)
        made.check_sentinel()


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.wait(20)


class Client:
    """One conversation with a real server, not waiting for it."""

    def __init__(self, address: Address, offer: Offer, sent: bytes) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.offer, self.sent = offer, sent
        self._rest = memoryview(sent)
        self._got = bytearray()
        self._closed = False
        self.verdict: Verdict | None = None
        self._until = time.monotonic() + ANSWER_SECONDS
        self._looked = 0.0
        try:
            self.sock.settimeout(ANSWER_SECONDS)
            self.sock.connect(address)
            self.sock.setblocking(False)
        except OSError:
            self.sock.close()
            raise

    def go_on(self) -> bool:
        """Send and receive what can be; True when everything that is owed has come.  Raises Broken."""
        moved = try_send(self.sock, self._rest)
        self._rest = self._rest[moved:]
        data = try_receive(self.sock)
        self._got += data or b""
        self._closed = self._closed or data == b""
        if self._closed and self._was_reset():
            # The server hung up with bytes unread, and TCP then drops what it had said before.
            self.verdict = Verdict()
            return True
        now = time.monotonic()
        if data or moved:
            self._looked = now
        if not self._closed and now - self._looked < _LOOKS:
            return False
        self._looked = now
        try:
            self.verdict = Judge(self.offer, self.sent, bytes(self._got), self._closed).judge()
        except Broken:
            # What lacks may be on its way, or not have been taken yet.
            if self._closed or now > self._until:
                raise
            return False
        return True

    def _was_reset(self) -> bool:
        """Say whether TCP may have lost the last words of the server."""
        return self.sock.family == socket.AF_INET and _info_state(self.sock) == _TCP_CLOSE


def _info_state(sock: socket.socket) -> int:
    """Give the state of a TCP connection: closed where it was reset, waiting where it ended in order."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


_TCP_CLOSE = 7  # of linux/tcp_states.h


class Assault:
    """Batches of conversations, and looks at what they did."""

    def __init__(self, order: Order, ground: Field) -> None:
        self._field, self._chance = ground, random.Random(order.seed)
        self._seeds = [seed[1:] for seed in seeds_in(Path(order.seeds))]
        self._worlds = (ground.scene.world, World(SIZE, ground.scene.world.names, (), TOKEN.encode()))
        self._offers = Offer(SIZE, (b"", NAME.encode())), Offer(SIZE, (b"", TOKEN.encode()), patience=64)
        self.report = Report()
        self._kinds: Counter[str] = Counter()
        self._lingering: deque[socket.socket] = deque()
        self._shadow = Shadow(self._content())
        self._before = [_resident(pid) for pid in ground.pids]
        self.last = b""

    def run(self, go_on: Callable[[int], bool]) -> None:
        """Raises Broken."""
        self._field.check_alive()
        number = 0
        while go_on(self.report.conversations):
            self._batch(number)
            number += 1
        self._flood()
        while self._lingering:
            self._lingering.popleft().close()

    # One batch

    def _batch(self, number: int) -> None:
        judged: list[Client] = []
        asked: list[Asked] = []
        for _ in range(BATCH):
            program = mutate(self._seeds, self._chance)
            net = self._chance.random() < 0.35
            told = conversation(program, self._worlds[net]).sent
            asked += _changes(told)
            if self._chance.random() < 0.25:
                self._misbehave(told, net)
            else:
                judged.append(Client(self._address(net), self._offers[net], told))
            self.report.conversations += 1
        self._finish(judged)
        self._check(judged, asked)
        if number % 16 == 15:
            self._look()

    def _address(self, net: bool) -> Address:
        return self._field.tcp if net else self._field.unix

    def _finish(self, clients: list[Client]) -> None:
        waiting = list(clients)
        while waiting:
            waiting = [each for each in waiting if not self._done(each)]
            if waiting:
                select.select([each.sock for each in waiting], [], [], 0.001)
        for each in clients:
            each.sock.close()
        self._kinds["judged"] += len(clients)

    def _done(self, client: Client) -> bool:
        self.last = client.sent
        return client.go_on()

    def _check(self, clients: list[Client], asked: list[Asked]) -> None:
        """Check every byte that was read, and what the disk holds now, against all that was asked."""
        together = Verdict(asked)
        for each in clients:
            assert each.verdict is not None
            together.reads += each.verdict.reads
            self._kinds["requests"] += len(each.verdict.requests)
            self._kinds["replies"] += each.verdict.replies
        self._shadow.check_reads(together)
        self._shadow.settle(together, self._content())

    def _content(self) -> bytes:
        """Read the whole disk as a client does that behaves."""
        began = time.monotonic()
        with NbdClient.connect(self._field.unix, timeout=ANSWER_SECONDS) as client:
            content = bytes(client.read(0, SIZE))
        self.report.slowest = max(self.report.slowest, time.monotonic() - began)
        return content

    # Clients that do worse than say wrong things

    def _misbehave(self, told: bytes, net: bool) -> None:
        how = self._chance.choice((self._leave, self._drip, self._stay_deaf, self._reset, self._rubbish_tls))
        self._kinds[how.__name__.strip("_")] += 1
        with suppress(ConnectionError, BlockingIOError):
            how(told, net)

    def _connected(self, net: bool) -> socket.socket:
        address = self._address(net)
        sock = socket.socket(socket.AF_INET if net else socket.AF_UNIX)
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return sock

    def _leave(self, told: bytes, net: bool) -> None:
        """Go in the middle of what was to be said."""
        with self._connected(net) as sock:
            sock.send(told[: self._chance.randrange(len(told) + 1)])

    def _reset(self, told: bytes, net: bool) -> None:
        """Say it all, and be gone at once."""
        with self._connected(net) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.send(told)

    def _drip(self, told: bytes, net: bool) -> None:
        """Say a little, and stay."""
        sock = self._linger(net)
        sock.send(told[: self._chance.randrange(40)])

    def _stay_deaf(self, told: bytes, net: bool) -> None:
        """Ask for much, and take nothing."""
        sock = self._linger(net)
        sock.send(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 0))
        reads = (p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, at, 0, SIZE) for at in range(500))
        sock.send(b"".join(reads))

    def _rubbish_tls(self, told: bytes, net: bool) -> None:
        """Come to the acceptor that wants TLS, ask for it or not, and say something else."""
        with socket.create_connection(self._field.tls, ANSWER_SECONDS) as sock:
            sock.setblocking(False)
            head = p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STARTTLS, 0)
            sock.send(head if self._chance.random() < 0.9 else told)
            select.select([sock], [], [], 0.05)
            hello = b"\x16\x03\x01" + self._chance.randbytes(2)
            sock.send((hello if self._chance.random() < 0.5 else b"") + told[:4000])
            if self._chance.random() < 0.2:
                sock.setblocking(True)

    def _linger(self, net: bool) -> socket.socket:
        while len(self._lingering) >= _LINGERING:
            self._lingering.popleft().close()
        sock = self._connected(net)
        self._lingering.append(sock)
        return sock

    def _flood(self) -> None:
        """Come in hundreds, say nothing, and announce the largest of everything; then behave."""
        with ExitStack() as stack:
            for number in range(900):
                net = bool(number % 3)
                with suppress(ConnectionError, BlockingIOError):
                    sock = stack.enter_context(self._connected(net))
                    if number % 6 == 3:
                        head = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 1, 32 << 20)
                        sock.send(
                            p.CLIENT_FLAGS.pack(3) + _option(p.OPT_EXPORT_NAME, b"") + head + bytes(9999)
                        )
            self._look()
            uri = f"nbd://{self._field.tcp[0]}:{self._field.tcp[1]}/{TOKEN}"
            self._kinds["flood"] += 900
        began = time.monotonic()
        with NbdClient.connect(uri, timeout=ANSWER_SECONDS) as client:
            require(
                bytes(client.read(0, SIZE)) == bytes(self._shadow.content), "the data changed in the flood"
            )
        self.report.slowest = max(self.report.slowest, time.monotonic() - began)

    # The processes

    def _look(self) -> None:
        self._field.check_alive()
        for pid, before in zip(self._field.pids, self._before, strict=True):
            self.report.grown = max(self.report.grown, _resident(pid) - before)

    def counts(self) -> dict[str, int]:
        return dict(self._kinds)


def _option(option: int, data: bytes) -> bytes:
    return p.OPTION.pack(p.OPTION_MAGIC, option, len(data)) + data


def _changes(sent: bytes) -> list[Asked]:
    """Give every change that a server could find in what was sent, wherever it lies."""
    found, at = [], sent.find(_MAGIC)
    while at >= 0:
        if len(sent) - at >= p.REQUEST.size:
            _, flags, kind, cookie, offset, length = p.REQUEST.unpack_from(sent, at)
            if kind in CHANGES:
                payload = sent[at + p.REQUEST.size :][:length]
                found.append(Asked(kind, flags, cookie, offset, length, payload))
        at = sent.find(_MAGIC, at + 1)
    return found


_MAGIC = p.REQUEST_MAGIC.to_bytes(4, "big")


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def _descriptors(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def run(order: Order) -> Report:
    """Do what the order says; what was broken is in the report."""
    with field_of(Path(order.home)) as ground:
        assault = Assault(order, ground)
        report, files = assault.report, _descriptors(ground.pids)
        try:
            assault.run(order.clock())
            report.descriptors = _settled(ground, files)
        except Broken as exc:
            report.broken, report.input = str(exc), assault.last.hex()
        report.counts = assault.counts()
    return report


def _settled(ground: Field, before: int) -> int:
    """Wait for the servers to give up those who are gone; gives the descriptors too many."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while _descriptors(ground.pids) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    return max(0, _descriptors(ground.pids) - before)


if __name__ == "__main__":
    end_in_order()
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    Path(order.report).write_text(json.dumps(asdict(run(order))))

# SPDX-License-Identifier: Apache-2.0
"""A worker serves a Fisk to clients that send ahead; what fails, fails in the worker's own process.

Whatever happens there, each request gets exactly one reply or its connection ends, an answer is never better
than what happened, and what is there afterwards is what was acknowledged.
"""

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from fisk_core.dataplane import control, fence, outgoing, server, worker
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec, FenceOptions
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.locks import Lock
from proof.faults import interrupts
from proof.faults.calls import EINTR, FULL, SHORT
from proof.faults.injector import Injector, Meeting, Site, explain
from proof.faults.peer import PATIENCE, Peer, connected
from proof.faults.scenarios import scenario
from proof.faults.stage import BLOCK, PAGE, Stage, descriptors
from proof.oracle import Oracle

_SIZE = 1 << 20
_LARGE = 320 << 10
_NAME = "disk"
_RELEASE = 0.05
"""seconds between the looks of a worker at layers that are gone"""


class Ending(NamedTuple):
    """What a worker's process says at its end."""

    error: str
    """the typed error it ended with"""
    problems: list[str]
    met: bool
    trace: list[Meeting]
    failed: set[Site]


class Served:
    """A worker in a process of its own, with the injector in it."""

    def __init__(
        self, stage: Stage, spec: DiskSpec, lock: Lock, *, tcp: bool = False, far: bool = False
    ) -> None:
        """``tcp``: also on the network; ``far``: with paths longer than a socket's name may be."""
        self.stage, self._lock = stage, lock
        folder = stage.base / ("x" * 120) if far else stage.base
        folder.mkdir(exist_ok=True)
        self.path, self.control = str(stage.base / "n"), str(folder / "c")
        self.fence = stage.base / "fence"
        self.ending: Ending | None = None
        self._pipe, sink = Pipe(duplex=False)
        self._pid = os.fork()
        if self._pid == 0:
            self._pipe.close()
            options = ServeOptions(
                unix=self.path,
                control=self.control,
                listen=("127.0.0.1", 0) if tcp else None,
                fence=FenceOptions(str(self.fence), spec.epoch),
                lock=lock.fd,
                parent=os.getppid(),
            )
            _be_worker(sink, stage.injector, spec, options)
        sink.close()

    def alive(self) -> bool:
        return not self._pipe.poll()

    def stop(self) -> Ending:
        """Have it end in good order; it may have ended by itself."""
        if self.alive():
            os.kill(self._pid, signal.SIGTERM)
        if not self._pipe.poll(PATIENCE):
            os.kill(self._pid, signal.SIGKILL)
            self.ending = Ending("", ["the worker does not end"], False, [], set())
        else:
            try:
                self.ending = self._pipe.recv()
            except EOFError:
                self.ending = Ending("", ["the worker ended without a word"], False, [], set())
        os.waitpid(self._pid, 0)
        self._pipe.close()
        self._lock.release()
        assert self.ending is not None
        return self.ending


def _be_worker(sink: Connection, injector: Injector, spec: DiskSpec, options: ServeOptions) -> None:
    """Serve, in the child, with whatever is to fail; and end."""
    error, problems = "", []
    try:
        fence.INTERVAL, server._RELEASE_SECONDS = 0.01, _RELEASE
        interrupts.supervise(injector.answer)
        injector.slow = True
        injector.install()
        before = descriptors()
        try:
            worker.run(spec, options)
        except FiskError as exc:
            error = explain(exc)
        except Exception as exc:  # the very thing that must not come out
            problems.append(f"the worker raised {explain(exc)}")
        injector.active = False
        after = {path: count for path, count in descriptors().items() if path.startswith("/")}
        problems += [
            f"the worker left {path} open" for path, count in after.items() if count > before.get(path, 0)
        ]
        sink.send(Ending(error, problems + injector.problems, injector.met, injector.trace, injector.failed))
    finally:
        os._exit(0)


class Client:
    """What is asked of a worker, and what may come back."""

    def __init__(self, stage: Stage, served: Served, name: str) -> None:
        self.stage, self.served, self.name = stage, served, name
        self.errors: list[tuple[str, int]] = []
        """(what, error) of replies, in the order in which they came"""
        self.lost = False
        """a connection ended"""
        self.flush_failed = False
        self.refusals = False
        """errors are what is wanted"""
        self.switched = False
        """the worker was to go on in a new period"""
        self.ends = False
        """so is that the worker ends with one"""
        self.peers: list[Peer] = []

    @property
    def oracles(self) -> list[Oracle]:
        return self.stage.fisks[self.name]

    def connect(self, *, structured: bool) -> Peer | None:
        peer = connected(self.served.path, "", structured=structured, alive=self.served.alive)
        if peer is None and self.served.alive():
            self.stage.blame("the worker lives and takes no connection")
        if peer is not None:
            self.peers.append(peer)
        return peer

    def _told(self, what: str, end: Callable[[bool, bytes], None]) -> Callable[[int | None, bytes], None]:
        late = self.flush_failed  # when it was sent

        def told(error: int | None, data: bytes) -> None:
            if error is None:
                self.lost = True
            elif error:
                self.errors.append((what, error))
            elif late and what not in ("read", "status", "cache"):
                self.stage.blame(f"a {what} succeeded after a flush had failed")
            end(error == 0, data)

        return told

    def _change(
        self, peer: Peer, what: str, begin: Callable[[Oracle], Any], kind: int, offset: int, length: int,
        payload: bytes = b"", flags: int = 0,
    ) -> None:  # fmt: skip
        begun = [(oracle, begin(oracle)) for oracle in self.oracles]

        def end(done: bool, _: bytes) -> None:
            for oracle, change in begun:
                if done:
                    oracle.end(change, fua=bool(flags & nbd.CMD_FLAG_FUA))
                else:
                    oracle.fail(change)
            if not done and flags & nbd.CMD_FLAG_FUA:
                self._flush_ended(done)

        peer.send(kind, offset, length, self._told(what, end), payload, flags)

    def _flush_ended(self, done: bool) -> None:
        """A disk of which a flush failed may have lost what was not flushed."""
        if not done:
            self.stage.lossy.add(self.name)
            fault = self.stage.injector.fault
            if fault is not None and "sync" in fault.site.call and not self.lost:
                self.flush_failed = True

    def write(self, peer: Peer, offset: int, length: int, flags: int = 0) -> None:
        data = self.stage.fill(length)
        self._change(
            peer, "write", lambda o: o.write(offset, data), nbd.CMD_WRITE, offset, length, data, flags
        )

    def zero(self, peer: Peer, offset: int, length: int, flags: int = 0) -> None:
        self._change(
            peer, "zero", lambda o: o.zero(offset, length), nbd.CMD_WRITE_ZEROES, offset, length, flags=flags
        )

    def trim(self, peer: Peer, offset: int, length: int) -> None:
        self._change(peer, "trim", lambda o: o.trim(offset, length), nbd.CMD_TRIM, offset, length)

    def flush(self, peer: Peer) -> None:
        begun = [(oracle, oracle.flush()) for oracle in self.oracles]

        def end(done: bool, _: bytes) -> None:
            for oracle, flush in begun:
                if done:
                    oracle.end_flush(flush)
            self._flush_ended(done)

        peer.send(nbd.CMD_FLUSH, 0, 0, self._told("flush", end))

    def read(self, peer: Peer, offset: int, length: int) -> None:
        """Read while nothing else is under way, so that the answer is known."""

        def end(done: bool, data: bytes) -> None:
            if not done:
                return
            legal = [
                all(
                    data[at - offset : at - offset + BLOCK]
                    in list(oracle.legal(at // BLOCK, crashed=self.lossy))
                    for at in range(offset, offset + length, BLOCK)
                )
                for oracle in self.oracles
            ]
            if not any(legal):
                self.stage.blame(f"{length} bytes at {offset} read as they must not")

        peer.send(nbd.CMD_READ, offset, length, self._told("read", end))

    @property
    def lossy(self) -> bool:
        return self.name in self.stage.lossy

    def ask(self, peer: Peer, kind: int, offset: int, length: int, what: str) -> None:
        peer.send(kind, offset, length, self._told(what, lambda done, data: None))

    def over_tcp(self) -> None:
        """Connect over the network, too."""
        with contextlib.suppress(FiskError, OSError):  # the worker may have ended
            uris = control.call(self.served.control, {"op": "status"})["uris"]
            for uri in uris:
                if uri.startswith("nbd://"):
                    host, _, port = uri.removeprefix("nbd://").partition("/")[0].rpartition(":")
                    socket.create_connection((host, int(port)), PATIENCE).close()

    def settle(self) -> None:
        for peer in self.peers:
            peer.settle()

    def finish(self) -> None:
        """Hang up, stop the worker, and judge what the replies said."""
        for peer in self.peers:
            peer.finish()
            self.stage.count("requests", peer.asked)
            self.stage.count("replies", peer.answered)
            self.stage.problems += peer.problems
        ending = self.served.stop()
        self.stage.problems += ending.problems
        self.stage.failures += (not self.refusals) * len(self.errors) + (not self.ends and bool(ending.error))
        injector = self.stage.injector
        injector.met, injector.trace, injector.failed = ending.met, ending.trace, ending.failed
        if ending.error:
            self.stage.lossy.add(self.name)
        fault = injector.fault
        if self.refusals:
            return
        if fault is None or not ending.met:
            if self.errors or self.lost or ending.error:
                self.stage.blame(f"nothing failed, and yet: {self.errors[:3]} {ending.error}")
            return
        if fault.kind in (EINTR, SHORT) and (self.errors or self.lost or ending.error):
            self.stage.blame(f"{fault.kind} was seen: {self.errors[:3]}, lost {self.lost}, {ending.error}")
        codes = {code for _, code in self.errors}
        if self.switched:  # that may have failed first, and been told to whoever asked for it
            codes.discard(errno.EPERM)
        if fault.kind in ("ENOSPC", "EDQUOT", FULL) and codes and errno.ENOSPC not in codes:
            self.stage.blame(f"want of space was told as {self.errors[0]}")


def _fisk(stage: Stage) -> None:
    """A Fisk with a snapshot below it."""
    with stage.engine() as engine:
        assert engine is not None
        stage.create(engine, _NAME, _SIZE)
        with stage.writing(engine, _NAME) as drive:
            assert drive is not None
            drive.write(0, 300 << 10)
        stage.snapshot(engine, _NAME, "below")
        engine.settle()


def _serve(stage: Stage, name: str, *, writable: bool, **how: bool) -> Served:
    """Start a worker, where a dead one left its socket; nothing fails here."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stage.base / "n"))
    with Engine.open(stage.home) as engine:
        fisk = engine.get(name)
        lock = engine.acquire(name, writable)
        spec = engine.disk_spec(fisk, not writable)
    return Served(stage, spec, lock, **how)


@contextlib.contextmanager
def _asked(stage: Stage, *, structured: bool = True, **how: bool) -> Iterator[tuple[Client, Peer | None]]:
    """Serve the disk to one client, and judge at the end; no peer where the worker takes none."""
    client = Client(stage, _serve(stage, _NAME, writable=True, **how), _NAME)
    yield client, client.connect(structured=structured)
    client.finish()


@scenario("a worker serves a disk", _fisk, forks=True)
def serves(stage: Stage) -> None:
    """Two clients send ahead: small and large, aligned or not, with and without FUA."""
    client = Client(stage, _serve(stage, _NAME, writable=True), _NAME)
    one, two = client.connect(structured=False), client.connect(structured=True)
    if one is not None and two is not None:
        _first_half(client, one, two)
        _second_half(client, one, two)
    client.finish()


def _first_half(client: Client, one: Peer, two: Peer) -> None:
    for block in range(8):
        client.write(one, block * BLOCK, BLOCK)
    client.write(two, 5 * PAGE + 100, 700)
    client.settle()
    client.read(one, 0, 4 * BLOCK)
    client.read(two, 5 * PAGE, PAGE)
    client.read(one, 200 << 10, 8 * PAGE)
    client.settle()
    client.flush(one)
    client.write(two, 40 * PAGE, BLOCK, nbd.CMD_FLAG_FUA)
    client.settle()
    for block in range(4):
        client.write(one, block * BLOCK, BLOCK)  # in place now
    client.write(one, 310 << 10, _LARGE)
    client.write(two, 650 << 10, _LARGE + BLOCK)
    client.settle()
    client.read(one, 310 << 10, _LARGE)
    client.read(two, 600 << 10, 300 << 10)
    client.settle()


def _second_half(client: Client, one: Peer, two: Peer) -> None:
    client.trim(one, 400 << 10, 100 << 10)
    client.trim(two, 0, PAGE)
    client.settle()
    client.zero(one, 3 * PAGE, 2 * PAGE)
    client.zero(two, 9 * PAGE, 2 * PAGE, nbd.CMD_FLAG_NO_HOLE)
    client.ask(two, nbd.CMD_CACHE, 0, 64 << 10, "cache")
    client.ask(two, nbd.CMD_BLOCK_STATUS, 0, _SIZE, "status")
    client.flush(two)
    client.flush(one)
    client.settle()
    for block in range(4):
        client.write(one, (block + 60) * PAGE, BLOCK)
        client.read(two, (block + 100) * PAGE, BLOCK)
    client.settle()


@scenario("a worker looks for layers that are gone", _fisk, forks=True)
def rests(stage: Stage) -> None:
    """Once it has nothing to do; what is there is read as before."""
    with _asked(stage) as (client, peer):
        if peer is None:
            return
        client.write(peer, PAGE, 6 * BLOCK)
        client.settle()
        for _ in range(2):
            client.read(peer, 0, 3 * PAGE)
            client.settle()
            time.sleep(3 * _RELEASE)


def _snapshot_served(stage: Stage, client: Client) -> None:
    with Engine.open(stage.home) as engine:
        # The engine is to find the worker's control socket where it looks for it.
        os.symlink(client.served.control, engine.home.control(engine.get(_NAME).id))
        client.switched = True
        stage.snapshot(engine, _NAME, "later")


@scenario("a worker goes on in a new period", _fisk, forks=True)
def continues(stage: Stage) -> None:
    """A snapshot of a Fisk that is served; the process that asks for it sees no fault of its own."""
    with _asked(stage) as (client, peer):
        if peer is None:
            return
        client.write(peer, PAGE, 6 * BLOCK)
        client.settle()
        _snapshot_served(stage, client)
        client.write(peer, 2 * PAGE, 6 * BLOCK)
        client.settle()
        client.read(peer, PAGE, 2 * PAGE)
        client.settle()
        client.flush(peer)
        client.settle()
        client.write(peer, 4 * PAGE, BLOCK)
        client.settle()


@scenario("another host waits while a worker goes on", _fisk, forks=True)
def awaited(stage: Stage) -> None:
    """It is told where everything durable is, at first and after a snapshot."""
    told = stage.base / "fence"
    outgoing.write(told.with_suffix(".incoming"), {"id": "who waits", "host": "elsewhere"})
    with _asked(stage) as (client, peer):
        if peer is None:
            return
        client.write(peer, PAGE, 6 * BLOCK)
        client.settle()
        _snapshot_served(stage, client)
        client.write(peer, 2 * PAGE, 6 * BLOCK)
        client.flush(peer)
        client.settle()


@scenario("nothing can be said to another host that waits", _fisk, forks=True)
def unanswered(stage: Stage) -> None:
    """Nor taken back what may have been said before: the worker does not serve then."""
    told = stage.base / "fence"
    outgoing.write(told.with_suffix(".incoming"), {"id": "who waits", "host": "elsewhere"})
    told.with_suffix(".outgoing").mkdir()
    client = Client(stage, _serve(stage, _NAME, writable=True), _NAME)
    client.refusals = client.ends = True
    if client.connect(structured=True) is not None:
        stage.blame("a worker serves whose earlier word to another host still stands")
    client.finish()


@scenario("a worker is fenced", _fisk, forks=True)
def fenced(stage: Stage) -> None:
    """Another host takes over: the worker lets go, and refuses all that comes."""
    stage.injector.may_sync_again = True
    with _asked(stage, tcp=True, far=True) as (client, peer):
        if peer is None:
            return
        client.write(peer, PAGE, 6 * BLOCK)
        client.flush(peer)
        client.settle()
        client.over_tcp()
        client.refusals = True
        client.served.fence.write_text("99")
        deadline = time.monotonic() + PATIENCE
        before = len(client.errors)
        while peer.is_open and len(client.errors) == before and time.monotonic() < deadline:
            client.ask(peer, nbd.CMD_READ, 0, BLOCK, "read")
            peer.settle()
        if len(client.errors) == before and not client.lost:
            stage.blame("a fenced worker goes on serving")


@scenario("a worker serves a class", _fisk, forks=True)
def classed(stage: Stage) -> None:
    """Of which it steps back behind others; and it is asked for figures."""
    with Engine.open(stage.home) as engine:
        engine.set(_NAME, attributes={"class": "background"})
    with _asked(stage, structured=False) as (client, peer):
        if peer is None:
            return
        client.write(peer, PAGE, 6 * BLOCK)
        client.flush(peer)
        client.settle()
        with contextlib.suppress(FiskError):  # the worker may have ended
            control.call(client.served.control, {"op": "metrics"})


@scenario("a worker serves a snapshot", _fisk, forks=True)
def serves_frozen(stage: Stage) -> None:
    """Large reads of what cannot change go from the page cache to the socket."""
    client = Client(stage, _serve(stage, "below", writable=False), "below")
    one, two = client.connect(structured=False), client.connect(structured=True)
    if one is not None and two is not None:
        for _ in range(2):
            client.read(one, 0, _LARGE - (30 << 10))
            client.read(two, 100 << 10, 300 << 10)
            client.read(one, 0, BLOCK)
            client.settle()
    client.finish()

# SPDX-License-Identifier: Apache-2.0
"""Servers in this process, on real disks of a real pool, for conversations by the thousand.

The loop, the acceptor, the connection and the disk are those of a worker; only the process is ours, so that
a fuzzer sees what it reaches.  Beside the attacked Fisk the pool holds another, whose bytes nobody may see.
"""

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fisk_core.dataplane import routes
from fisk_core.dataplane.acceptor import Acceptor, AcceptorOptions
from fisk_core.dataplane.control import Control
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.server import ServeOptions, Server
from fisk_core.engine import Engine
from proof.hostile.grammar import Conversation, World
from proof.hostile.judge import CHANGES, Broken, Judge, Offer, Shadow, Verdict

SIZE = 512 << 10
BLOCK, PAGE = 512, 2048
HANG_SECONDS = 20.0
"""after which a server that is not quiet hangs; generous, for the machine may be busy"""
NAME, FROZEN, ORDERED, SENTINEL = "attacked", "before", "ordered", "sentinel"
TOKEN = "a-token-that-was-given-out"


@dataclass
class Scene:
    """An engine with the attacked Fisk (layers above one another), frozen ones, and the sentinel."""

    engine: Engine
    world: World
    sentinel: bytes

    def check_sentinel(self) -> None:
        """Raises Broken when anything of the other Fisk changed."""
        with self.engine.open_disk(SENTINEL) as disk:
            if disk.read(0, disk.size) != self.sentinel:
                raise Broken("another Fisk was changed")


def pattern(seed: int, length: int) -> bytes:
    """Give bytes of which each 16 say where they are and whose."""
    return b"".join(struct.pack(">QQ", seed, at) for at in range(0, length, 16))


@contextmanager
def scene(home: Path) -> Iterator[Scene]:
    """Make an engine with these Fisks."""
    with Engine.open(home) as engine:
        other, secret = (
            engine.create(SENTINEL, SIZE, block_size=BLOCK, page_size=PAGE),
            pattern(0x5EC12E75EC12E7, SIZE),
        )
        with engine.open_disk(SENTINEL, writable=True) as disk:
            disk.write(0, secret)
        engine.create(NAME, SIZE, block_size=BLOCK, page_size=PAGE)
        with engine.open_disk(NAME, writable=True) as disk:
            disk.write(0, pattern(1, SIZE // 2))
        frozen = [engine.snapshot(NAME, FROZEN), engine.snapshot(SENTINEL, "sentinel-before")]
        engine.snapshot(NAME, ORDERED)
        with engine.open_disk(NAME, writable=True) as disk:
            disk.write(10_000, pattern(2, 40_000))
            disk.trim(100_000, 50_000)
        names = (
            NAME.encode(), SENTINEL.encode(), other.id.encode(), b"../" + SENTINEL.encode(), b"\0", b"\xff",
            b"x" * 4096, b"x" * 4097,
        )  # fmt: skip
        queries = tuple(f"fisk:diff:{each.id}".encode() for each in frozen)
        yield Scene(engine, World(SIZE, names, queries), secret)


class Attacked:
    """A server of one Fisk, and an acceptor in front of it."""

    def __init__(self, scene: Scene, name: str, *, read_only: bool) -> None:
        self.loop = Loop()
        self.loop.look_on = 0
        folder = scene.engine.home.path / f"{name}.x"
        folder.mkdir()
        control = folder / "ctl"
        options = ServeOptions(export=NAME, control=str(control))
        self.server = Server(self.loop, scene.engine.disk_spec(name, read_only), options)
        self.server.listen_control(Control(self.server).accept)
        routes.publish(folder, TOKEN, routes.Route(str(control), False))
        listen = AcceptorOptions(("127.0.0.1", 0), str(folder), str(folder / "acceptor.ctl"))
        self.acceptor = Acceptor(self.loop, listen, None)

    def close(self) -> None:
        self.acceptor.close()
        self.server.close()

    def converse(self, told: Conversation, through_acceptor: bool) -> tuple[bytes, bool]:
        """Have a conversation; gives what was received, and whether the server hung up."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            received = bytearray()
            if through_acceptor:
                self.acceptor._accept(theirs)
            else:
                self.server.add_connection(theirs)
            # Behind the acceptor a client goes from hand to hand, a turn of the loop each time.
            idle_turns = 12 if through_acceptor else 2
            closed = False
            for part in told.parts or [b""]:
                closed = self._exchange(ours, part, received, idle_turns)
                if closed:
                    break
            return bytes(received), closed

    def _exchange(self, ours: socket.socket, part: bytes, received: bytearray, idle_turns: int) -> bool:
        """Send, and take what comes until the server is quiet; True when it hung up."""
        view, deadline, idle = memoryview(part), time.monotonic() + HANG_SECONDS, 0
        while idle < idle_turns:
            if time.monotonic() > deadline:
                raise Broken(f"the server hangs with {len(view)} bytes to be sent")
            sent = try_send(ours, view)
            view = view[sent:]
            self.turn()
            data = try_receive(ours)
            if data == b"":
                return True
            received += data or b""
            if sent or data:
                idle = 0
            elif view or self._owes(ours):
                select.select([ours], [], [], 0.0005)  # its threads need a moment
            else:
                idle += 1
        return False

    def _owes(self, ours: socket.socket) -> bool:
        """Say whether the server has not taken all that was sent, or not said all it has to say."""
        if not self.server.quiet or any(conn.outbox for conn in self.server.connections):
            return True
        return any(fcntl.ioctl(ours.fileno(), termios.TIOCOUTQ, bytes(4)))

    def turn(self) -> None:
        """Let the loop look at everything once."""
        self.loop.later(0, self._stop)
        self.loop.run()
        self.loop.stopping = False

    def _stop(self) -> None:
        self.loop.stopping = True

    def settle(self) -> None:
        """Let everything end that the last conversation began."""
        deadline = time.monotonic() + HANG_SECONDS
        while self.server.connections or self.acceptor._receptions or not self.server.quiet:
            self.turn()
            if time.monotonic() > deadline:
                raise Broken("a connection whose client is gone is never given up")

    def content(self) -> bytes:
        """Give what the disk holds."""
        disk = self.server.disk
        return disk.read(0, disk.size)


def try_send(sock: socket.socket, view: memoryview) -> int:
    """Send what the socket takes; gives how much that was, all of it where nobody is there any more."""
    try:
        return sock.send(view) if view else 0
    except BlockingIOError:
        return 0
    except (BrokenPipeError, ConnectionResetError):
        return len(view)


def try_receive(sock: socket.socket) -> bytes | None:
    """Give what came, None for nothing, empty bytes at the end."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


class Trial:
    """A server and what is known of its disk: one call for one conversation."""

    def __init__(self, attacked: Attacked, read_only: bool) -> None:
        self._attacked = attacked
        self._offers = (
            Offer(SIZE, (b"", NAME.encode()), read_only),
            Offer(SIZE, (b"", TOKEN.encode()), read_only, patience=64),
        )
        self._shadow = Shadow(attacked.content())

    def run(self, told: Conversation, through_acceptor: bool = False) -> Verdict:
        """Raises Broken, and whatever would have ended a worker."""
        received, closed = self._attacked.converse(told, through_acceptor)
        verdict = Judge(self._offers[through_acceptor], told.sent, received, closed).judge()
        self._shadow.check_reads(verdict)
        self._attacked.settle()
        if any(each.kind in CHANGES for each in verdict.requests):
            self._shadow.settle(verdict, self._attacked.content())
        return verdict


def resident() -> int:
    """Give the bytes of memory that this process has to itself."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1]) << 10


def descriptors() -> int:
    """Give how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))

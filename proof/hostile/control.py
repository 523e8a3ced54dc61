# SPDX-License-Identifier: Apache-2.0
"""What a process that may talk to a worker's control socket can say wrong: lines of JSON, and parcels.

Only the worker's own user can connect to it, so nothing here is about rights; but a mistake in one request
must not end a worker that others use.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from fisk_core.dataplane import handover
from fisk_core.dataplane.control import Control
from fisk_core.dataplane.descriptors import send
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.parcel import Parcel
from fisk_core.dataplane.server import Server
from fisk_core.dataplane.succession import Succession
from fisk_core.errors import FiskError
from proof.hostile.judge import Broken, require
from proof.hostile.target import HANG_SECONDS, try_receive, try_send

_OPERATIONS = (
    "status", "metrics", "attributes", "barrier", "pause", "resume", "connection", "resize", "switch",
    "nonsense", None, 7, ["status"], "handover",
)  # fmt: skip
_FIELDS = ("size", "drop", "attributes", "spec", "name", "read_only", "received", "said", "seconds", "paused")
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 512, 524288, 1 << 40, 1 << 63, 1 << 64, 10**300, 0.5, float("nan"), float("inf"),
    -float("inf"), "", "x", "AAAA", "A", "\ud800", "\0", "\n", "\x1b[2J", "1_000", "\u0663", "1e3", [], {},
    {"qos.total_iops": "10"}, {"qos.total_iops": "nan"}, {"qos.total_iops": "1e999"}, {"class": "scratch"},
    {"qos.read_bytes": "-1"}, {"qos.read_bytes": "0" * 5000 + "1"}, {"class": "background"}, {"class": "x"},
    {"qos.write_iops": "\u0663"}, {"\ud800": "\ud800"}, {"a": None}, [["a", "b"]], [1, 2],
    {"map_id": "../../x"},
)  # fmt: skip
MAX_REPLY = 64 << 10


class Lines:
    """The control socket of a server that lives in this process."""

    def __init__(self, server: Server, turn: Callable[[], None]) -> None:
        self._server, self._turn = server, turn
        self._control = Control(server)

    def run(self, program: bytes) -> None:
        """Say the lines of a program; raises Broken, or what would have ended the worker."""
        said, whole = _lines(program)
        ours, theirs = socket.socketpair()
        fds = os.pipe() if program[-1:] > b"\xc0" else ()
        with ours:
            ours.setblocking(False)
            self._control.accept(theirs)
            rest = said
            if fds:
                with contextlib.suppress(OSError):
                    rest = rest[send(ours, rest, fds) :]
            for fd in fds:
                os.close(fd)
            answers = self._talk(ours, rest, whole)
        self._check(answers, whole)
        self._until(lambda: not self._control.lines, "a control connection is never given up")
        self._restore()

    def _talk(self, ours: socket.socket, rest: bytes, whole: int) -> bytes:
        """Send, and take answers until as many came as there were lines, or the worker hangs up."""
        answers = bytearray()

        def over() -> bool:
            nonlocal rest
            sent = try_send(ours, memoryview(rest))
            rest = rest[sent:]
            data = try_receive(ours)
            answers.extend(data or b"")
            return data == b"" or (data is None and not rest and answers.count(b"\n") >= whole)

        self._until(over, "a request is never answered")
        return bytes(answers)

    def _check(self, answers: bytes, whole: int) -> None:
        lines = answers.splitlines()
        require(len(lines) <= whole, f"{len(lines)} answers to {whole} requests")
        for line in lines:
            require(len(line) <= MAX_REPLY, "an answer that is too long")
            require(isinstance(json.loads(line)["ok"], bool), "an answer that says nothing")

    def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline, turns = time.monotonic() + HANG_SECONDS, 0
        while not condition():
            self._turn()
            turns += 1
            if turns > 50:
                time.sleep(0.0005)  # its threads need a moment
            if time.monotonic() > deadline:
                raise Broken(otherwise)

    def _restore(self) -> None:
        """Undo what was asked for on purpose."""
        server = self._server
        for conn in list(server.connections):
            conn.close()
        if server.departure:
            server.departure.withdraw(FiskError("over"))
        server.unpause("control")
        server.act_upon({}, lambda _: None)
        self._until(lambda: server.quiet, "the worker never comes to rest")


def _lines(program: bytes) -> tuple[bytes, int]:
    """Give what is said, and how many lines of it are whole."""
    kind, body = program[:1], program[1:]
    if kind < b"\x20":
        said = body
    elif kind < b"\x28":
        said = b'{"op":' + b"[" * 5000 + b"\n" + body
    elif kind < b"\x30":
        said = b'{"op":"resize","size":' + b"9" * 5000 + b"}\n" + body
    elif kind < b"\x34":
        said = b"x" * 100_000 + body
    else:
        said = _sensible(body)
    return said, said.count(b"\n")


def _sensible(body: bytes) -> bytes:
    """Requests of the right shape, whose fields have any values."""
    said = b""
    for at in range(0, min(len(body), 64), 8):
        part = body[at : at + 8].ljust(8, b"\0")
        request: dict[str, Any] = {"op": _OPERATIONS[part[0] % len(_OPERATIONS)]}
        for field, value in zip(part[1::2], part[2::2], strict=False):
            request[_FIELDS[field % len(_FIELDS)]] = _VALUES[value % len(_VALUES)]
        said += json.dumps(request).encode() + b"\n"
    return said


def deliver(program: bytes, spec: dict[str, Any], options: dict[str, Any]) -> None:
    """Have a successor receive a parcel that was packed wrong; raises whatever is no refusal."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Parcel() as parcel:
        theirs.setblocking(False)  # what never comes is not waited for
        with contextlib.suppress(OSError):
            _pack(program, parcel, ours, spec, options)
        ours.shutdown(socket.SHUT_WR)
        loop = Loop()
        try:
            with handover.accept(theirs) as delivery:
                succession = Succession(loop, delivery)
                succession.server.give_up()
        except FiskError as exc:
            require(len(str(exc)) < 1 << 20, "an endless message")
        finally:
            loop.close()


def _pack(
    program: bytes, parcel: Parcel, sock: socket.socket, spec: dict[str, Any], options: dict[str, Any]
) -> None:
    program = program.ljust(3, b"\0")
    start = {"name": None, "read_only": False, "received": parcel.add_bytes(b"x"), "said": 0, "agreed": None,
             "over": False}  # fmt: skip
    connection = {"fd": 0, "start": start, "skip": 0, "leaving": False, "stream": None, "outbox": []}
    document: dict[str, Any] = {
        "spec": spec, "options": options, "lock": None, "metrics": {}, "paused": False, "listeners": {},
        "control": [], "connections": [connection],
    }  # fmt: skip
    if program[:1] < b"\x40":
        place = parcel.add_bytes(program[1:])
        head = {"format": program[0] % 3, "document": place, "descriptors": program[0] % 5}
        send(sock, program[2:] if program[1:2] < b"\x20" else json.dumps(head).encode(), [_file(parcel)])
        return
    _damage(program[1:], document, connection, start)
    parcel.add_fd(sock.fileno())
    parcel.send(sock, document)


def _file(parcel: Parcel) -> int:
    return parcel._file


def _damage(program: bytes, *documents: dict[str, Any]) -> None:
    """Replace or remove some fields."""
    for at in range(0, min(len(program), 18), 3):
        which, field, value = program[at : at + 3].ljust(3, b"\0")
        chosen = documents[which % len(documents)]
        key = sorted(chosen)[field % len(chosen)] if chosen else "x"
        if value == 255:
            del chosen[key]
        else:
            chosen[key] = _VALUES[value % len(_VALUES)]
        if not chosen:
            return

# SPDX-License-Identifier: Apache-2.0
"""Real workers for tests, and a client that sends exactly what a test wants sent, right or wrong."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from fisk_core.dataplane import control
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.dataplane.worker import to_json
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import PoolError
from tests.waiting import PATIENCE


class Served:
    """A Fisk served by a worker process, which may be killed and started again at the same sockets."""

    def __init__(self, spec: DiskSpec, folder: Path, options: ServeOptions | None = None) -> None:
        self.spec = spec
        self.path, self.control_path = str(folder / "nbd"), str(folder / "ctl")
        self.options = replace(
            options or ServeOptions(), unix=self.path, control=self.control_path, announce=True
        )
        self.worker: Worker | None = None

    def start(self) -> None:
        self.worker = start_worker(self.spec, options=self.options)

    def stop(self) -> None:
        worker, self.worker = self.worker, None
        if worker:
            worker.stop()

    def kill(self) -> None:
        """End the worker with no chance to do anything more."""
        assert self.worker
        os.kill(self.worker.pid, signal.SIGKILL)
        with suppress(PoolError):
            self.stop()

    @property
    def pid(self) -> int:
        assert self.worker
        return self.worker.pid

    @property
    def uri(self) -> str:
        assert self.worker
        return self.worker.uri

    def control(self, op: str, **fields: object) -> dict[str, object]:
        return control.call(self.control_path, {"op": op, **fields})

    def connect(self, **options: object) -> NbdClient:
        return NbdClient.connect(self.uri, **options)  # type: ignore[arg-type]

    def raw(self, **options: object) -> "Raw":
        """Connect and enter transmission; ``go=False`` stays in negotiation."""
        return Raw(self.path, **options)  # type: ignore[arg-type]

    def resident(self) -> int:
        """Bytes of memory the worker has to itself (what it maps of files is not counted)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Forked(Served):
    """The same by a worker that a zygote forks: it starts in milliseconds."""

    def __init__(self, spec: DiskSpec, folder: Path, zygote: Zygote) -> None:
        super().__init__(spec, folder)
        self._zygote, self._pid, self._uri = zygote, 0, ""

    def start(self) -> None:
        self._pid, [self._uri] = self._zygote.spawn(self.spec, self.options)

    def stop(self, number: int = signal.SIGTERM) -> None:
        pid, self._pid = self._pid, 0
        if pid:
            os.kill(pid, number)
            assert self._zygote.wait(pid) == (0 if number == signal.SIGTERM else -number)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def uri(self) -> str:
        return self._uri


@contextmanager
def patched_worker(
    spec: DiskSpec, path: Path, patch: str, control: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a worker in whose process the statements of ``patch`` set constants first."""
    program = f"{patch}\nfrom fisk_core.dataplane.worker import main\nimport sys\nsys.exit(main())"
    with tempfile.TemporaryFile("w+") as handover:
        options = ServeOptions(unix=str(path), control=control and str(control), announce=True)
        handover.write(to_json(spec, options))
        handover.seek(0)
        command = [sys.executable, "-c", program, str(handover.fileno())]
        process = subprocess.Popen(command, pass_fds=[handover.fileno()], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()


@dataclass
class Reply:
    """One whole reply: its error, the data of a read put together, and its chunks (type, payload)."""

    cookie: int
    error: int = 0
    data: bytes = b""
    chunks: list[tuple[int, bytes]] = field(default_factory=list)


class Raw:
    """A client that knows the wire format and no rules."""

    def __init__(
        self,
        path: str,
        *,
        structured: bool = False,
        contexts: tuple[str, ...] = (),
        go: bool = True,
        flags: int = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES,
        greet: bool = True,
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.cookie = 0
        self.lengths: dict[int, tuple[int, int]] = {}
        try:
            self.sock.connect(path)
            self.hello = p.HELLO.unpack(self.read(p.HELLO.size))
            if greet:
                self._greet(structured, contexts, go, flags)
        except BaseException:
            self.sock.close()
            raise

    def _greet(self, structured: bool, contexts: tuple[str, ...], go: bool, flags: int) -> None:
        self.sock.sendall(p.CLIENT_FLAGS.pack(flags))
        if structured:
            assert self.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
        if contexts:
            replies = self.option(p.OPT_SET_META_CONTEXT, queries("", *contexts))
            assert len(replies) == len(contexts) + 1, replies
        if go:
            assert self.go()[-1][0] == p.REP_ACK

    def read(self, count: int) -> bytes:
        """Give exactly ``count`` bytes; raises EOFError."""
        data = bytearray()
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def at_end(self) -> bool:
        """Say whether the server hangs up (and says nothing before)."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    # Negotiation

    def put_option(self, option: int, data: bytes = b"", magic: int = p.OPTION_MAGIC) -> None:
        self.sock.sendall(p.OPTION.pack(magic, option, len(data)) + data)

    def option_reply(self, option: int) -> tuple[int, bytes]:
        magic, answered, kind, length = p.OPTION_REPLY.unpack(self.read(p.OPTION_REPLY.size))
        assert (magic, answered) == (p.OPTION_REPLY_MAGIC, option)
        return kind, self.read(length)

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; gives the replies up to ACK or an error."""
        self.put_option(option, data)
        replies = [self.option_reply(option)]
        while replies[-1][0] != p.REP_ACK and not replies[-1][0] & p.REP_FLAG_ERROR:
            replies.append(self.option_reply(option))
        return replies

    def go(self, name: str = "", *wanted: int) -> list[tuple[int, bytes]]:
        return self.option(p.OPT_GO, info_request(name, *wanted))

    # Transmission

    def send(
        self,
        kind: int,
        offset: int = 0,
        length: int = 0,
        flags: int = 0,
        payload: bytes = b"",
        magic: int = p.REQUEST_MAGIC,
    ) -> int:
        self.cookie += 1
        self.lengths[self.cookie] = (offset, length if kind == p.CMD_READ else 0)
        head = p.REQUEST.pack(magic, flags, kind, self.cookie, offset, length)
        self.sock.sendall(head + payload if len(payload) < 1 << 16 else head)
        if len(payload) >= 1 << 16:
            self.sock.sendall(payload)
        return self.cookie

    def reply(self) -> Reply:
        magic = int.from_bytes(self.read(4), "big")
        if magic == p.SIMPLE_REPLY_MAGIC:
            _, error, cookie = p.SIMPLE_REPLY.unpack(magic.to_bytes(4, "big") + self.read(12))
            _, length = self.lengths.pop(cookie)
            return Reply(cookie, error, b"" if error else self.read(length))
        assert magic == p.STRUCTURED_REPLY_MAGIC
        return self._chunks(magic)

    def _chunks(self, magic: int) -> Reply:
        reply: Reply | None = None
        while True:
            head = magic.to_bytes(4, "big") + self.read(p.CHUNK.size - 4)
            _, flags, kind, cookie, length = p.CHUNK.unpack(head)
            reply = reply or Reply(cookie)
            assert cookie == reply.cookie, "chunks of two replies are mixed"
            reply.chunks.append((kind, self.read(length)))
            if flags & p.CHUNK_FLAG_DONE:
                return self._whole(reply)
            assert int.from_bytes(self.read(4), "big") == magic

    def _whole(self, reply: Reply) -> Reply:
        start, length = self.lengths.pop(reply.cookie)
        data = bytearray(length)
        for kind, payload in reply.chunks:
            offset = int.from_bytes(payload[:8], "big") - start
            if kind == p.CHUNK_OFFSET_DATA:
                data[offset : offset + len(payload) - 8] = payload[8:]
            elif kind == p.CHUNK_ERROR:
                reply.error = p.CHUNK_ERROR_HEAD.unpack_from(payload)[0]
        assert len(data) == length
        reply.data = bytes(data)
        return reply

    def call(self, kind: int, *args: int, payload: bytes = b"", **options: int) -> Reply:
        """Send one request (offset, length, flags) and give its reply."""
        cookie = self.send(kind, *args, payload=payload, **options)
        reply = self.reply()
        assert reply.cookie == cookie
        return reply

    def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        """Write and give the error."""
        return self.call(p.CMD_WRITE, offset, len(data), flags, payload=data).error

    def get(self, offset: int, length: int) -> bytes:
        reply = self.call(p.CMD_READ, offset, length)
        assert reply.error == 0
        return reply.data

    def works(self) -> bool:
        """Say whether the connection still answers."""
        return len(self.get(0, 512)) == 512

    def status(self, offset: int, length: int, flags: int = 0) -> dict[int, list[tuple[int, int]]]:
        """BLOCK_STATUS: context id → (bytes, flags)."""
        reply = self.call(p.CMD_BLOCK_STATUS, offset, length, flags)
        assert reply.error == 0
        assert {kind for kind, _ in reply.chunks} == {p.CHUNK_BLOCK_STATUS}
        return {
            int.from_bytes(payload[:4], "big"): list(p.STATUS_EXTENT.iter_unpack(payload[4:]))
            for _, payload in reply.chunks
        }

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data


def info_request(name: str | bytes, *wanted: int) -> bytes:
    return text(name) + len(wanted).to_bytes(2, "big") + b"".join(kind.to_bytes(2, "big") for kind in wanted)


def queries(name: str | bytes, *wanted: str | bytes) -> bytes:
    return text(name) + len(wanted).to_bytes(4, "big") + b"".join(text(query) for query in wanted)

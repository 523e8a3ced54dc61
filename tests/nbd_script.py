# SPDX-License-Identifier: Apache-2.0
"""A scripted NBD server for tests: says exactly what a test wants said, right or wrong."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fisk_core.dataplane import protocol as p

Script = Callable[["Wire"], None]
FLAGS = p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_FLUSH | p.TFLAG_SEND_TRIM | p.TFLAG_SEND_WRITE_ZEROES


class Request(NamedTuple):
    """A request as it came off the wire."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class Wire:
    """The server's end of one connection; hanging up of the client ends the script quietly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    # Negotiation

    def greet(self, flags: int = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES) -> None:
        self.send(p.HELLO.pack(p.INIT_MAGIC, p.OPTION_MAGIC, flags))
        self.read(p.CLIENT_FLAGS.size)

    def option(self) -> tuple[int, bytes]:
        magic, option, length = p.OPTION.unpack(self.read(p.OPTION.size))
        assert magic == p.OPTION_MAGIC
        return option, self.read(length)

    def answer(self, option: int, kind: int = p.REP_ACK, data: bytes = b"") -> None:
        self.send(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)), data)

    def expect(self, wanted: int) -> bytes:
        option, data = self.option()
        assert option == wanted
        return data

    def structured(self, agree: bool = True) -> None:
        self.expect(p.OPT_STRUCTURED_REPLY)
        self.answer(p.OPT_STRUCTURED_REPLY, p.REP_ACK if agree else p.REP_ERR_UNSUP)

    def contexts(self, *names: str) -> None:
        """Agree on ``names`` with ids 1, 2 …"""
        self.expect(p.OPT_SET_META_CONTEXT)
        for number, name in enumerate(names, 1):
            data = p.CONTEXT_ID.pack(number) + name.encode()
            self.answer(p.OPT_SET_META_CONTEXT, p.REP_META_CONTEXT, data)
        self.answer(p.OPT_SET_META_CONTEXT)

    def go(self, size: int = 1 << 20, flags: int = FLAGS, blocks: tuple[int, int, int] | None = None) -> None:
        self.expect(p.OPT_GO)
        self.answer(p.OPT_GO, p.REP_INFO, p.INFO_EXPORT_DATA.pack(p.INFO_EXPORT, size, flags))
        if blocks:
            self.answer(p.OPT_GO, p.REP_INFO, p.INFO_BLOCK_SIZE_DATA.pack(p.INFO_BLOCK_SIZE, *blocks))
        self.answer(p.OPT_GO)

    # Transmission

    def request(self) -> Request:
        magic, *fields = p.REQUEST.unpack(self.read(p.REQUEST.size))
        assert magic == p.REQUEST_MAGIC
        return Request(*fields)

    def simple(self, cookie: int, error: int = 0, data: bytes = b"") -> None:
        self.send(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, cookie), data)

    def chunk(self, cookie: int, kind: int, data: bytes = b"", done: bool = True) -> None:
        flags = p.CHUNK_FLAG_DONE if done else 0
        self.send(p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(data)), data)


class ScriptServer:
    """Runs ``script`` for the first connection to ``path``, in a thread."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = str(path)
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def _run(self) -> None:
        self._listener.settimeout(10)
        try:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(10)
                self._script(Wire(sock))
        except (EOFError, ConnectionError):
            pass  # the client has seen enough, which is what most scripts are about
        except BaseException as exc:  # the test must see it, whatever it is
            self._failure = exc

    def __enter__(self) -> "ScriptServer":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()
        if self._failure is not None and kind is None:
            raise self._failure

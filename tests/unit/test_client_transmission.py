# SPDX-License-Identifier: Apache-2.0
"""The NBD client in transmission: replies in pieces and any order, refused requests, hostile servers."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import InvalidValue, ProtocolError, Unsupported
from tests.nbd_script import FLAGS, Request, ScriptServer, Wire

CONTEXT = "base:allocation"
Answer = Callable[[Wire, Request], None]


@contextmanager
def serving(
    path: Path,
    talk: Callable[[Wire], None],
    *,
    structured: bool = True,
    contexts: tuple[str, ...] = (),
    timeout: float = 0.7,
    size: int = 1 << 20,
    flags: int = FLAGS,
    blocks: tuple[int, int, int] | None = None,
) -> Iterator[NbdClient]:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.structured(structured)
        if contexts:
            wire.contexts(*contexts)
        wire.go(size, flags, blocks)
        talk(wire)

    with (
        ScriptServer(path / "s", script) as server,
        NbdClient.connect(server.path, contexts=contexts, timeout=timeout) as client,
    ):
        yield client


def one(answer: Answer) -> Callable[[Wire], None]:
    """Answer the first request, then only listen."""

    def talk(wire: Wire) -> None:
        answer(wire, wire.request())
        while True:
            wire.read(1)

    return talk


def data_chunk(offset: int, data: bytes) -> bytes:
    return p.CHUNK_OFFSET.pack(offset) + data


# Replies as they should be


def test_replies_in_any_order(tmp_path: Path) -> None:
    def talk(wire: Wire) -> None:
        requests = [wire.request() for _ in range(8)]
        for request in reversed(requests):
            wire.simple(request.cookie, 0, bytes([request.offset // 512]) * request.length)

    with serving(tmp_path, talk, structured=False) as client:
        handles = [client.submit_read(number * 512, 512) for number in range(8)]
        for number, handle in enumerate(handles):
            assert handle.result() == bytes([number]) * 512


def test_a_read_in_pieces_with_a_hole(tmp_path: Path) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.chunk(request.cookie, p.CHUNK_OFFSET_DATA, data_chunk(8192, b"c" * 4096), done=False)
        wire.chunk(request.cookie, p.CHUNK_OFFSET_HOLE, p.CHUNK_HOLE.pack(4096, 4096), done=False)
        wire.chunk(request.cookie, p.CHUNK_OFFSET_DATA, data_chunk(0, b"a" * 4096), done=False)
        wire.chunk(request.cookie, p.CHUNK_NONE)

    with serving(tmp_path, one(answer)) as client:
        buffer = bytearray(b"?" * 12288)
        client.read_into(0, memoryview(buffer))
        assert buffer == b"a" * 4096 + bytes(4096) + b"c" * 4096


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (p.EPERM, errors.ReadOnly),
        (p.EIO, errors.PoolError),
        (p.ENOMEM, errors.LimitExceeded),
        (p.EINVAL, errors.InvalidValue),
        (p.ENOSPC, errors.NoSpace),
        (p.EOVERFLOW, errors.LimitExceeded),
        (p.ENOTSUP, errors.Unsupported),
        (p.ESHUTDOWN, errors.PoolError),
        (4711, errors.PoolError),
    ],
)
def test_a_refused_request_leaves_the_connection(
    tmp_path: Path, structured: bool, code: int, kind: type[errors.FiskError]
) -> None:
    def talk(wire: Wire) -> None:
        request = wire.request()
        if structured:
            wire.chunk(request.cookie, p.CHUNK_ERROR, p.CHUNK_ERROR_HEAD.pack(code, 4) + b"oops", done=False)
            wire.chunk(request.cookie, p.CHUNK_NONE)
        else:
            wire.simple(request.cookie, code)
        request = wire.request()
        wire.simple(request.cookie)

    with serving(tmp_path, talk, structured=structured) as client:
        with pytest.raises(kind, match="read of 4096 bytes at 8192"):
            client.read(8192, 4096)
        client.flush()


def test_an_error_after_some_data(tmp_path: Path) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.chunk(request.cookie, p.CHUNK_OFFSET_DATA, data_chunk(0, b"a" * 512), done=False)
        body = p.CHUNK_ERROR_HEAD.pack(p.EIO, 6) + b"sector" + struct.pack(">Q", 512)
        wire.chunk(request.cookie, p.CHUNK_ERROR_OFFSET, body)

    with serving(tmp_path, one(answer)) as client, pytest.raises(errors.PoolError, match="sector"):
        client.read(0, 4096)


def test_all_pieces_are_waited_for_before_an_error_is_raised(tmp_path: Path) -> None:
    """Otherwise a late reply would land in a buffer its owner uses for something else already."""

    def talk(wire: Wire) -> None:
        first, second = wire.request(), wire.request()
        wire.simple(first.cookie, p.EIO)
        time.sleep(0.2)
        wire.simple(second.cookie, 0, b"b" * second.length)

    with serving(tmp_path, talk, structured=False, blocks=(1, 4096, 4096)) as client:
        buffer = bytearray(8192)
        with pytest.raises(errors.PoolError):
            client.read_into(0, memoryview(buffer))
        assert buffer[4096:] == b"b" * 4096


# Limits of the server


def test_requests_are_split_at_the_maximum(tmp_path: Path) -> None:
    seen = []

    def talk(wire: Wire) -> None:
        for _ in range(3):
            request = wire.request()
            seen.append((request.offset, request.length))
            wire.read(request.length)
            wire.simple(request.cookie)

    with serving(tmp_path, talk, structured=False, blocks=(512, 4096, 4096)) as client:
        client.write(512, bytes(10240))
        with pytest.raises(InvalidValue, match="4096 at most"):
            client.submit_write(0, bytes(8192))
    assert seen == [(512, 4096), (4608, 4096), (8704, 2048)]


class Disk:
    """A server's disk with a minimum block of 512; notes every request and insists on alignment."""

    def __init__(self) -> None:
        self.data = bytearray(range(256)) * 16
        self.seen: list[tuple[int, int, int]] = []

    def talk(self, wire: Wire) -> None:
        while True:
            request = wire.request()
            self.seen.append((request.command, request.offset, request.length))
            assert not request.offset % 512
            assert not request.length % 512
            area = slice(request.offset, request.offset + request.length)
            if request.command == p.CMD_WRITE:
                self.data[area] = wire.read(request.length)
            elif request.command == p.CMD_WRITE_ZEROES:
                self.data[area] = bytes(request.length)
            reply = bytes(self.data[area]) if request.command == p.CMD_READ else b""
            wire.simple(request.cookie, 0, reply)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 512), (1, 1), (511, 2), (100, 2000), (512, 1000), (700, 324), (4000, 96)]
)
def test_unaligned_requests_against_a_minimum_block(tmp_path: Path, offset: int, length: int) -> None:
    disk = Disk()
    expected = bytearray(disk.data)
    with serving(tmp_path, disk.talk, structured=False, size=4096, blocks=(512, 512, 1024)) as client:
        assert client.read(offset, length) == expected[offset : offset + length]
        client.write(offset, b"w" * length)
        expected[offset : offset + length] = b"w" * length
        assert disk.data == expected
        client.zero(offset, length)
        expected[offset : offset + length] = bytes(length)
        assert disk.data == expected
        before = len(disk.seen)
        client.trim(offset, length)
        assert all(offset <= at and at + n <= offset + length for _, at, n in disk.seen[before:])


def test_zero_where_the_server_has_no_such_command(tmp_path: Path) -> None:
    disk = Disk()
    with serving(tmp_path, disk.talk, structured=False, size=4096, flags=p.TFLAG_HAS_FLAGS) as client:
        client.zero(0, 4096)
        assert disk.data == bytes(4096)
        assert {command for command, _, _ in disk.seen} == {p.CMD_WRITE}


def test_fua_falls_back_to_a_flush(tmp_path: Path) -> None:
    disk = Disk()
    with serving(tmp_path, disk.talk, structured=False, size=4096) as client:
        client.write(0, bytes(512), fua=True)
    assert [command for command, _, _ in disk.seen[:2]] == [p.CMD_WRITE, p.CMD_FLUSH]


def test_what_the_server_cannot_do_is_not_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, lambda wire: None, flags=0) as client:
        for call in (client.flush, lambda: client.trim(0, 512), lambda: client.cache(0, 512)):
            with pytest.raises(Unsupported):
                call()
        with pytest.raises(Unsupported):
            client.block_status(0, 512)
        with pytest.raises(Unsupported):
            list(client.extents(context="qemu:allocation-depth"))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (1 << 20, 1), ((1 << 20) - 1, 2), (1 << 70, 1)])
def test_ranges_past_the_end(tmp_path: Path, offset: int, length: int) -> None:
    with serving(tmp_path, lambda wire: None) as client:
        for call in (client.read, client.zero, client.trim):
            with pytest.raises(InvalidValue):
                call(offset, length)
        with pytest.raises(InvalidValue):
            client.write(offset, bytes(length))


def test_nothing_to_do(tmp_path: Path) -> None:
    with serving(tmp_path, lambda wire: None) as client:
        assert client.read(5, 0) == b""
        client.write(5, b"")
        client.zero(5, 0)
        client.trim(5, 0)
        assert list(client.extents(5, 0)) == []


# Block status


def status_chunk(number: int, *extents: tuple[int, int]) -> bytes:
    return p.CONTEXT_ID.pack(number) + b"".join(p.STATUS_EXTENT.pack(*extent) for extent in extents)


def test_extents_of_several_contexts(tmp_path: Path) -> None:
    def talk(wire: Wire) -> None:
        # Replies are shorter than asked for, then longer than asked for; contexts differ in length.
        for first, second in (((4096, 0), (8192, 3)), ((1 << 20, 3), (1 << 20, 1))):
            request = wire.request()
            wire.chunk(request.cookie, p.CHUNK_BLOCK_STATUS, status_chunk(2, second), done=False)
            wire.chunk(request.cookie, p.CHUNK_BLOCK_STATUS, status_chunk(1, first, (512, 3)))

    with serving(tmp_path, talk, contexts=(CONTEXT, "x:y")) as client:
        assert client.contexts == (CONTEXT, "x:y")
        assert list(client.extents(0, 65536)) == [(0, 4096, 0), (4096, 61440, 3)]


def test_extents_respect_the_minimum_block(tmp_path: Path) -> None:
    def answer(wire: Wire, request: Request) -> None:
        assert (request.offset, request.length) == (512, 1024)
        wire.chunk(request.cookie, p.CHUNK_BLOCK_STATUS, status_chunk(1, (512, 0), (512, 3)))

    with serving(tmp_path, one(answer), contexts=(CONTEXT,), blocks=(512, 512, 1 << 20)) as client:
        assert list(client.extents(600, 600)) == [(600, 424, 0), (1024, 176, 3)]


# Hostile servers

READ = "read"
STATUS = "status"
SECONDS = 5

HOSTILE: list[tuple[str, str, Answer]] = [
    ("garbage", READ, lambda w, r: w.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ("hang-up", READ, lambda w, r: w.sock.shutdown(socket.SHUT_RDWR)),
    ("unknown cookie", READ, lambda w, r: w.simple(r.cookie + 1, 0, bytes(4096))),
    ("silence", READ, lambda w, r: None),
    ("stops in the payload", READ, lambda w, r: w.chunk(r.cookie, 1, data_chunk(0, bytes(100)))),
    ("simple reply to a read", READ, lambda w, r: w.simple(r.cookie, 0, bytes(4096))),
    (
        "data without end",
        READ,
        lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_DATA, data_chunk(0, bytes(8192))),
    ),
    (
        "data elsewhere",
        READ,
        lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_DATA, data_chunk(4096, bytes(512))),
    ),
    (
        "data before",
        READ,
        lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_HOLE, p.CHUNK_HOLE.pack(2**64 - 1, 9)),
    ),
    ("empty data", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_DATA, data_chunk(0, b""))),
    ("short data chunk", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_DATA, b"abc")),
    ("hole of 4 GiB", READ, lambda w, r: w.chunk(r.cookie, 2, p.CHUNK_HOLE.pack(0, 0xFFFFFFFF))),
    ("missing bytes", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_OFFSET_DATA, data_chunk(0, bytes(512)))),
    ("nothing", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_NONE)),
    ("none, not done", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_NONE, done=False)),
    ("none with a payload", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_NONE, b"x")),
    ("unknown chunk", READ, lambda w, r: w.chunk(r.cookie, 77, b"x")),
    ("status for a read", READ, lambda w, r: w.chunk(r.cookie, 5, status_chunk(1, (512, 0)))),
    (
        "error without code",
        READ,
        lambda w, r: w.chunk(r.cookie, p.CHUNK_ERROR, p.CHUNK_ERROR_HEAD.pack(0, 0)),
    ),
    ("error too short", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_ERROR, b"123")),
    ("error cut off", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_ERROR, p.CHUNK_ERROR_HEAD.pack(5, 500))),
    ("error of a novel's length", READ, lambda w, r: w.chunk(r.cookie, p.CHUNK_ERROR, bytes(100_000))),
    ("no context", STATUS, lambda w, r: w.chunk(r.cookie, p.CHUNK_NONE)),
    ("unknown context", STATUS, lambda w, r: w.chunk(r.cookie, 5, status_chunk(9, (512, 0)))),
    ("empty extent", STATUS, lambda w, r: w.chunk(r.cookie, 5, status_chunk(1, (0, 0)))),
    ("no extent", STATUS, lambda w, r: w.chunk(r.cookie, 5, status_chunk(1))),
    ("half an extent", STATUS, lambda w, r: w.chunk(r.cookie, 5, status_chunk(1, (512, 0)) + b"abc")),
    ("data for a status", STATUS, lambda w, r: w.chunk(r.cookie, 1, data_chunk(0, bytes(512)))),
    ("simple reply to a status", STATUS, lambda w, r: w.simple(r.cookie)),
]


@pytest.mark.parametrize(("name", "what", "answer"), HOSTILE, ids=[each[0] for each in HOSTILE])
def test_a_hostile_reply_ends_the_connection(tmp_path: Path, name: str, what: str, answer: Answer) -> None:
    begun = time.monotonic()
    with serving(tmp_path, one(answer), contexts=(CONTEXT,)) as client:
        with pytest.raises(ProtocolError):
            client.read(0, 4096) if what == READ else client.block_status(0, 4096)
        with pytest.raises(ProtocolError, match="given up"):
            client.read(0, 4096)
    assert time.monotonic() - begun < SECONDS


def repeat(kind: int, data: bytes, times: int = 1 << 20) -> Answer:
    def answer(wire: Wire, request: Request) -> None:
        head = p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, 0, kind, request.cookie, len(data))
        for _ in range(times // 1024):
            wire.send((head + data) * 1024)

    return answer


FLOODS = {
    "errors": repeat(p.CHUNK_ERROR, p.CHUNK_ERROR_HEAD.pack(5, 0)),
    "the same data": repeat(p.CHUNK_OFFSET_DATA, data_chunk(0, b"x" * 64)),
    "the same status": repeat(p.CHUNK_BLOCK_STATUS, status_chunk(1, (512, 0))),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_without_end_is_stopped(tmp_path: Path, flood: str) -> None:
    with serving(tmp_path, one(FLOODS[flood]), contexts=(CONTEXT,)) as client, pytest.raises(ProtocolError):
        client.block_status(0, 4096) if "status" in flood else client.read(0, 4096)


def test_announced_gigabytes_are_not_allocated(tmp_path: Path) -> None:
    def answer(wire: Wire, request: Request) -> None:
        for kind in (p.CHUNK_BLOCK_STATUS, p.CHUNK_ERROR):
            wire.send(p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, 1, kind, request.cookie, 0xFFFFFFF4))

    with serving(tmp_path, one(answer), contexts=(CONTEXT,)) as client, pytest.raises(ProtocolError):
        client.block_status(0, 4096)


def test_a_chunk_where_none_were_agreed(tmp_path: Path) -> None:
    answer = one(lambda wire, request: wire.chunk(request.cookie, p.CHUNK_NONE))
    with (
        serving(tmp_path, answer, structured=False) as client,
        pytest.raises(ProtocolError, match="nonsense"),
    ):
        client.read(0, 512)


# Moving bytes


@pytest.mark.parametrize("poll", [True, False], ids=["poll", "select"])
def test_both_sides_with_much_to_say_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll: bool
) -> None:
    """The server answers before it reads on, so it stops reading while its answers are not taken."""
    if not poll:  # as in a service that eventlet runs
        monkeypatch.delattr(select, "poll")
    size = 4 << 20

    def talk(wire: Wire) -> None:
        for _ in range(4):
            read, write = wire.request(), None
            wire.simple(read.cookie, 0, b"r" * size)
            write = wire.request()
            wire.read(write.length)
            wire.simple(write.cookie)

    with serving(tmp_path, talk, structured=False, size=size, timeout=10) as client:
        handles = []
        for _ in range(4):
            handles.append(client.submit_read(0, size))
            client.submit_write(0, bytes(size))
        assert all(handle.result() == b"r" * size for handle in handles)


def test_read_many_gives_the_order_asked_for_and_bounds_what_flies(tmp_path: Path) -> None:
    waiting = []

    def talk(wire: Wire) -> None:
        for _ in range(10):
            batch = [wire.request() for _ in range(4)]
            wire.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                wire.sock.recv(1)
            wire.sock.settimeout(10)
            waiting.append(len(batch))
            for request in reversed(batch):
                wire.simple(request.cookie, 0, request.offset.to_bytes(8, "big") * (request.length // 8))

    with serving(tmp_path, talk, structured=False) as client:
        client.depth = 4
        ranges = [(number * 4096, 4096 if number % 2 else 512) for number in range(40)]
        # Taking four at a time: a window that slid would let the server see part of the next batch.
        for start in range(0, 40, 4):
            window = ranges[start : start + 4]
            for (offset, length), (at, data) in zip(window, client.read_many(window), strict=True):
                assert (offset, offset.to_bytes(8, "big") * (length // 8)) == (at, bytes(data))
    assert waiting == [4] * 10


def test_closing_says_good_bye(tmp_path: Path) -> None:
    seen = []
    with serving(tmp_path, lambda wire: seen.append(wire.request().command)) as client:
        pass
    assert seen == [p.CMD_DISC]
    with pytest.raises(ProtocolError, match="closed"):
        client.read(0, 1)

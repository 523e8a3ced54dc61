# SPDX-License-Identifier: Apache-2.0
"""NBD transmission: every whole request of an inbox is answered in one go.

:meth:`Transmission.process` answers what :class:`FastPath` can do at once into one buffer that is sent
once.  Everything else becomes a :class:`Request` and goes through :meth:`Transmission.handle`, where it is
answered, put off until the disk has what it needs, or refused.  Each request gets exactly one reply.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from fisk_core import _linux, errors
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.connection import MAX_PENDING, Connection, FileSpan
from fisk_core.dataplane.disk import CannotTell, Disk, fill, read_extent
from fisk_core.dataplane.fastpath import fast_path
from fisk_core.dataplane.layers import HOLE
from fisk_core.dataplane.protocol import (
    CHUNK,
    CHUNK_NONE,
    CHUNK_OFFSET_DATA,
    CMD_READ,
    CMD_WRITE,
    DATA_CHUNK,
    MAX_REQUEST,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
)
from fisk_core.dataplane.status import Export, describe

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server
    from fisk_core.dataplane.throttle import Throttle

LOG = logging.getLogger(__name__)
SMALL = 64 << 10
"""reads up to this many bytes are collected into one answer; larger holes get a chunk of their own"""
_BATCH = 16
"""replies sent together: fewer would cost system calls, more would leave the client waiting for work"""
_OUT = (1 << 20) + 4096  # a read of 1 MiB and its head
_TOLD = 256  # damaged things that are logged
_MISSES = 4  # the disk answers about in order: behind so many reads not cached yet, no others are tried
_REQUEST = REQUEST.size
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DONE = nbd.CHUNK_FLAG_DONE

_KNOWN_FLAGS = {
    nbd.CMD_READ: nbd.CMD_FLAG_DF | nbd.CMD_FLAG_FUA,
    nbd.CMD_WRITE: nbd.CMD_FLAG_FUA,
    nbd.CMD_FLUSH: 0,
    nbd.CMD_TRIM: nbd.CMD_FLAG_FUA,
    nbd.CMD_CACHE: 0,
    nbd.CMD_WRITE_ZEROES: nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO,
    nbd.CMD_BLOCK_STATUS: nbd.CMD_FLAG_REQ_ONE,
}
SmallRead = tuple[int, int, int]
"""(cookie, offset, length) of a read up to SMALL"""
CHANGES = (nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES)


@dataclass(slots=True)
class Request:
    """One request away from the fast path; ``payload`` is a view of the inbox, or a copy once put off."""

    conn: Connection
    flags: int
    kind: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | bytes = b""
    since: float = 0.0
    tries: int = 0
    received: float = 0.0
    """when it had come whole, or its head where its data is written as it comes"""

    @property
    def structured(self) -> bool:
        return self.conn.structured


Wire = tuple[int, int, Callable[[bytearray, int, int, int, int], None], Callable[[bytearray, int, int], None]]
"""bytes before the data of a read, bytes of a reply without data, and what packs the two into a buffer"""


def _simple_data(out: bytearray, at: int, cookie: int, offset: int, length: int) -> None:
    SIMPLE_REPLY.pack_into(out, at, SIMPLE_REPLY_MAGIC, 0, cookie)


def _simple_done(out: bytearray, at: int, cookie: int) -> None:
    SIMPLE_REPLY.pack_into(out, at, SIMPLE_REPLY_MAGIC, 0, cookie)


def _structured_data(out: bytearray, at: int, cookie: int, offset: int, length: int) -> None:
    DATA_CHUNK.pack_into(
        out, at, STRUCTURED_REPLY_MAGIC, _DONE, CHUNK_OFFSET_DATA, cookie, length + 8, offset
    )


def _structured_done(out: bytearray, at: int, cookie: int) -> None:
    CHUNK.pack_into(out, at, STRUCTURED_REPLY_MAGIC, _DONE, CHUNK_NONE, cookie, 0)


SIMPLE: Wire = (SIMPLE_REPLY.size, SIMPLE_REPLY.size, _simple_data, _simple_done)
STRUCTURED: Wire = (DATA_CHUNK.size, CHUNK.size, _structured_data, _structured_done)


class Transmission:
    """The requests of all connections of one server."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.metrics, self._counted = server.metrics, server.metrics.batch
        self.throttle: Throttle | None = None
        """what holds requests back, where something is limited"""
        self.fast = fast_path(server.disk)
        self._out = bytearray(_OUT)
        self._view = memoryview(self._out)
        self._knows_cached = True
        self._damage: set[str] = set()
        self._handlers: dict[int, Callable[[Request], None]] = {
            nbd.CMD_READ: self._read,
            nbd.CMD_WRITE: self._write,
            nbd.CMD_FLUSH: self._flush,
            nbd.CMD_TRIM: self._trim,
            nbd.CMD_CACHE: self._cache,
            nbd.CMD_WRITE_ZEROES: self._write_zeroes,
            nbd.CMD_BLOCK_STATUS: self._block_status,
        }

    @property
    def disk(self) -> Disk:
        return self.server.disk

    def disk_changed(self) -> None:
        """Take notice that the disk, its live layer or its size is another now."""
        self.fast = fast_path(self.server.disk)

    def disk_fenced(self) -> None:
        """Have every request take the general path, where it is refused."""
        self.fast.size = self.fast.end = 0

    def process(self, conn: Connection) -> None:
        """Answer the whole requests in the inbox of ``conn``; raises ProtocolError for what is not one."""
        if self.server.turn is not None:
            return self.server.turn.process(conn)
        if conn.closed or conn.full:
            return conn.watch()  # others may have made it full: it must know that it waits, to be woken
        conn.received = received = conn.received or monotonic()
        inbox, view, out, answers = conn.inbox, conn.view, self._out, self._view
        have = conn.have if self.throttle is None else self.throttle.admit(conn)
        used = count = position = writes = write_bytes = 0
        head, done_size, put_data, put_done = STRUCTURED if conn.structured else SIMPLE
        unpack, read, counted, gap = REQUEST.unpack_from, self.fast.read, self._counted, head - done_size
        write = _refused if conn.read_only else self.fast.write
        missed: list[SmallRead] = []
        if conn.stream:
            position = self.server.arrivals.go_on(conn, conn.stream, 0)
            have = have if conn.stream is None else 0
        while have - position >= _REQUEST:
            magic, flags, kind, cookie, offset, length = unpack(inbox, position)
            if magic != REQUEST_MAGIC:
                raise errors.ProtocolError("a request without its magic number")
            body, start = position + _REQUEST, used + head
            if count >= _BATCH or start + SMALL > _OUT:
                conn.send(answers[:used])
                counted(received, count, used - count * head + writes * gap, writes, write_bytes)
                used, count, start, writes, write_bytes = 0, 0, head, 0, 0
                if conn.full:
                    break
            try:
                if kind == CMD_READ and not flags and 0 < length <= SMALL:
                    if read(answers[start : start + length], offset, length):
                        put_data(out, used, cookie, offset, length)
                        used, position, count = start + length, body, count + 1
                        continue
                elif kind == CMD_WRITE and length <= MAX_REQUEST:
                    if have - body < length:
                        request = Request(conn, flags, kind, cookie, offset, length, received=received)
                        position = self.server.arrivals.begin(request, body)
                        break
                    if not flags and write(view[body : body + length], offset, length):
                        put_done(out, used, cookie)
                        used, position, count = used + done_size, body + length, count + 1
                        writes, write_bytes = writes + 1, write_bytes + length
                        continue
            except BlockingIOError:
                missed.append((cookie, offset, length))
                position = body
                if len(missed) == MAX_PENDING:
                    break
                continue
            except (OSError, errors.FiskError):
                pass  # the general path tells what it was
            conn.send(answers[:used])
            counted(received, count, used - count * head + writes * gap, writes, write_bytes)
            used, count, writes, write_bytes = 0, 0, 0, 0
            missed = self.server.cold.add_small(conn, missed)
            position = self._general(conn, (flags, kind, cookie, offset, length), body)
            if conn.closed or conn.full:
                break
        conn.send(answers[:used])
        counted(received, count, used - count * head + writes * gap, writes, write_bytes)
        self._done_until(conn, position, missed)

    def _done_until(self, conn: Connection, position: int, missed: list[SmallRead]) -> None:
        """Drop what was looked at from the inbox; what is left there waits."""
        conn.consume(position)
        if missed:
            self.server.cold.add_small(conn, missed)
        if not conn.have or not conn.full:
            conn.received = 0.0  # else it came no later than what was just answered
        else:
            conn.watch()
        if self.throttle is not None:
            self.throttle.settle(conn, position)

    def _general(self, conn: Connection, fields: tuple[int, int, int, int, int], body: int) -> int:
        """Handle one request outside the fast path; gives where it ends in the inbox."""
        request = Request(conn, *fields, received=conn.received)
        if request.kind == nbd.CMD_DISC:
            conn.finish()
            return body
        if request.kind == CMD_WRITE:
            if request.length > MAX_REQUEST:
                return self.server.arrivals.refuse(
                    request, body, errors.InvalidValue("a write larger than the server takes")
                )
            request.payload = conn.view[body : body + request.length]
            body += request.length
        self.handle(request)
        return body

    def handle(self, request: Request) -> None:
        """Answer a request now or see that it is answered later; raises ProtocolError to hang up."""
        try:
            self.check(request)
            try:
                self._handlers[request.kind](request)
            except BlockingIOError:
                self.server.deferred.add(request)
        except errors.ProtocolError:
            raise  # part of the answer is sent: another one would be taken for the rest of it
        except errors.FiskError as exc:
            self.fail(request, exc)

    def check(self, request: Request) -> None:
        """Raise what the protocol wants for a request that cannot be meant."""
        if self.disk.fenced and not self._is_durable_anyway(request):
            self.disk.writable()  # what it would read may be changing elsewhere
        known = _KNOWN_FLAGS.get(request.kind)
        if known is None or request.flags & ~known:
            raise errors.InvalidValue("unknown command or flag")
        if request.kind == nbd.CMD_FLUSH:
            return
        if request.kind in CHANGES and (self.disk.read_only or request.conn.read_only):
            raise errors.ReadOnly("the export is read-only")
        if request.offset + request.length > self.disk.size:
            past_end = (
                errors.NoSpace if request.kind in (CMD_WRITE, nbd.CMD_WRITE_ZEROES) else errors.InvalidValue
            )
            raise past_end("the request passes the end of the disk")
        if not request.length or (request.kind == CMD_READ and request.length > MAX_REQUEST):
            raise errors.InvalidValue("a length that makes no sense")

    def _is_durable_anyway(self, request: Request) -> bool:
        """Say whether this is a flush of what was durable when the Fisk was let go of: QEMU ends with one."""
        fence = self.server.fence
        return request.kind == nbd.CMD_FLUSH and fence is not None and bool(fence.yielded)

    # Replies

    def succeed(self, request: Request) -> None:
        """Send the reply of a request that has no data."""
        if request.conn.closed:
            return
        if request.structured:
            request.conn.send(CHUNK.pack(STRUCTURED_REPLY_MAGIC, _DONE, CHUNK_NONE, request.cookie, 0))
        else:
            request.conn.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie))
        self._count(request)

    def _count(self, request: Request) -> None:
        self.metrics.one(request.kind, request.length, monotonic() - request.received)

    def fail(self, request: Request, error: Exception) -> None:
        """Send the error reply of a request."""
        if request.conn.closed:
            return
        self.metrics.errors += 1
        if isinstance(error, errors.Corrupt):
            self._note_damage(request, error)
        code = nbd.wire_error(getattr(error, "errno", None))
        if not request.structured:
            request.conn.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, code, request.cookie))
            return
        text = str(error).encode()[: nbd.MAX_STRING]
        payload = nbd.CHUNK_ERROR_HEAD.pack(code, len(text)) + text
        head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, _DONE, nbd.CHUNK_ERROR, request.cookie, len(payload))
        request.conn.send(head + payload)

    def _note_damage(self, request: Request, error: errors.Corrupt) -> None:
        """Count what was found damaged, and say so: each thing once, for clients try again and again."""
        self.metrics.corrupt += 1
        text = f"Fisk {self.disk.spec.name}: {error}"
        if text not in self._damage and len(self._damage) < _TOLD:
            self._damage.add(text)
            LOG.error("%s; a request for %d bytes at %d failed", text, request.length, request.offset)

    def done(self, request: Request) -> None:
        """Answer a change, after a flush when it was made with FUA."""
        if request.flags & nbd.CMD_FLAG_FUA:
            self.server.flusher.request(request)
        else:
            self.succeed(request)

    # Commands

    def _read(self, request: Request) -> None:
        """Answer a read from the page cache, or leave it to the cold reads."""
        try:
            self.read_now(request, os.RWF_NOWAIT)
        except CannotTell:
            self.metrics.cold_reads += 1
            self.server.cold.fetch(request)
        except BlockingIOError:
            self.server.cold.add(request)

    def read_now(self, request: Request, flags: int) -> None:
        """Answer a read; raises BlockingIOError, with nothing sent, when that would wait for the disk."""
        self._read_planned(request, self.disk.plan(request.offset, request.length), flags)
        self._count(request)

    def _read_planned(self, request: Request, plan: list[tuple[int, int, int]], flags: int) -> None:
        if request.length > SMALL and self._send_cached(request, plan):
            return
        if request.structured and not request.flags & nbd.CMD_FLAG_DF and _large_hole(plan):
            self._read_chunks(request, plan, flags)
            return
        head = self._data_head(request, request.offset, request.length, last=True)
        size = len(head) + request.length
        reused = size <= _OUT  # nothing else is in it while a request takes the general path
        answer = self._view[:size] if reused else memoryview(bytearray(size))
        answer[: len(head)] = head
        fill(self.disk.layers, answer[len(head) :], plan, request.offset, flags)
        (request.conn.send if reused else request.conn.send_own)(answer)

    def read_again(self, request: Request) -> None:
        """Answer a read on this thread, waiting for the disk."""
        try:
            self.read_now(request, 0)
        except errors.FiskError as exc:
            self.fail(request, exc)

    def answer_data(self, request: Request, data: memoryview) -> None:
        """Answer a read with data that was fetched elsewhere."""
        if not request.conn.closed:
            request.conn.send(self._data_head(request, request.offset, request.length, last=True))
            request.conn.send_own(data)
            self._count(request)

    def _data_head(self, request: Request, offset: int, length: int, last: bool) -> bytes:
        if not request.structured:
            return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)
        flags = _DONE if last else 0
        cookie = request.cookie
        return DATA_CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, CHUNK_OFFSET_DATA, cookie, length + 8, offset)

    def _send_cached(self, request: Request, plan: list[tuple[int, int, int]]) -> bool:
        """Send a range of one layer straight from the page cache when all of it is there.

        By sendfile(2) only of a Fisk that nobody can write.  The socket refers to pages of the cache until
        the client takes them: a write meanwhile would be seen in the middle of a block, and a block that was
        overwritten in a newer layer, and then collected, would be seen as zeros.
        """
        fd, offset, length = plan[0]
        if len(plan) > 1 or fd == HOLE or not self._knows_cached or not request.conn.plain:
            return False
        if self.disk.layers.checked is not None:  # nobody would look at what is sent
            return False
        try:
            wanted = -(-(offset + length) // _PAGE) - offset // _PAGE
            if _linux.cached_pages(fd, offset, length) < wanted:
                return False
            size = os.fstat(fd).st_size
        except OSError:
            # A kernel without cachestat(2): one cannot know, so never risk to wait.
            self._knows_cached = False
            return False
        head = self._data_head(request, request.offset, request.length, last=True)
        if self.disk.read_only:
            request.conn.send_file(head, FileSpan(fd, offset, length))
            return True
        return self._send_mapped(request.conn, head, plan[0], size)

    def _send_mapped(self, conn: Connection, head: bytes, extent: tuple[int, int, int], size: int) -> bool:
        """Have the kernel copy from a cached file of ``size`` bytes what the socket takes; keep the rest."""
        fd, offset, length = extent
        if conn.outbox:
            return False
        view = self.disk.layers.windows.slice(fd, offset, length, size)
        if view is None:
            return False
        with view:
            sent = conn.send_view(head, view)
        if sent is None:
            return False
        left = length - max(0, sent - len(head))
        if sent < len(head) + length:
            rest = memoryview(bytearray(left))
            try:
                read_extent(fd, rest, offset + length - left)
            except errors.FiskError as exc:
                raise errors.ProtocolError(f"a reply that cannot be finished: {exc}") from exc
            conn.keep(head[sent:], rest)
        return True

    def _read_chunks(self, request: Request, plan: list[tuple[int, int, int]], flags: int) -> None:
        """Answer with a chunk for each run of data and of holes: holes cost no bytes on the wire."""
        parts: list[bytes | memoryview] = []
        runs = list(_by_hole(plan))
        for is_hole, offset, length in runs:
            last = offset + length == request.offset + request.length
            if is_hole:
                size, done = nbd.CHUNK_HOLE.size, _DONE if last else 0
                parts.append(
                    CHUNK.pack(STRUCTURED_REPLY_MAGIC, done, nbd.CHUNK_OFFSET_HOLE, request.cookie, size)
                )
                parts.append(nbd.CHUNK_HOLE.pack(offset, length))
            else:
                data = memoryview(bytearray(length))
                fill(self.disk.layers, data, self.disk.plan(offset, length), offset, flags)
                parts += (self._data_head(request, offset, length, last), data)
        for part in parts:
            request.conn.send_own(memoryview(part))

    def _write(self, request: Request) -> None:
        self.disk.write(request.offset, request.payload, patience(request))
        self.done(request)

    def _trim(self, request: Request) -> None:
        self.disk.trim(request.offset, request.length)
        self.done(request)

    def _write_zeroes(self, request: Request) -> None:
        allocate = bool(request.flags & nbd.CMD_FLAG_NO_HOLE)
        if (
            allocate
            and request.flags & nbd.CMD_FLAG_FAST_ZERO
            and not self.disk.pool.capabilities.preallocate
        ):
            raise errors.Unsupported("zeros are not faster than data here")
        self.disk.write_zeroes(request.offset, request.length, allocate, patience(request))
        self.done(request)

    def _flush(self, request: Request) -> None:
        if self.disk.fenced:
            self.succeed(request)
            return
        self.server.flusher.request(request)

    def _cache(self, request: Request) -> None:
        for fd, offset, length in self.disk.plan(request.offset, request.length):
            if fd != HOLE:
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
        self.succeed(request)

    def _block_status(self, request: Request) -> None:
        assert request.conn.agreed is not None
        contexts = request.conn.agreed.contexts
        if not contexts:
            raise errors.InvalidValue("no metadata context was agreed on")
        self.tell_status(request, statuses(request, self.server.export))

    def tell_status(self, request: Request, found: "Statuses") -> None:
        """Answer a request for block status."""
        for number, extents in found:
            payload = nbd.CONTEXT_ID.pack(number) + b"".join(
                nbd.STATUS_EXTENT.pack(*item) for item in extents
            )
            done = _DONE if number == found[-1][0] else 0
            head = (STRUCTURED_REPLY_MAGIC, done, nbd.CHUNK_BLOCK_STATUS, request.cookie, len(payload))
            request.conn.send(CHUNK.pack(*head) + payload)

    # Cold reads that became warm

    def answer_reads(self, conn: Connection, reads: "list[SmallRead]", received: float) -> "list[SmallRead]":
        """Answer small reads of cached data in one go; gives those still not cached."""
        view, used, count, total = self._view, 0, 0, 0
        rest: list[SmallRead] = []
        head, _, put_data, _ = STRUCTURED if conn.structured else SIMPLE
        read = self.fast.read
        for number, (cookie, offset, length) in enumerate(reads):
            start = used + head
            if start + length > _OUT:
                used, start = conn.send(view[:used]), head
            try:
                if not read(view[start : start + length], offset, length):
                    self.disk.read_into(view[start : start + length], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                rest.append(reads[number])
                if len(rest) == _MISSES:
                    rest += reads[number + 1 :]
                    break
            except (errors.FiskError, OSError) as exc:
                self.fail(Request(conn, 0, CMD_READ, cookie, offset, length), exc)
            else:
                put_data(self._out, used, cookie, offset, length)
                used, count, total = start + length, count + 1, total + length
        conn.send(view[:used])
        self.metrics.batch(received, count, total, 0, 0)
        return rest


Statuses = list[tuple[int, list[tuple[int, int]]]]
"""(metadata context, its extents as (bytes, flags))"""


def statuses(request: Request, export: "Export") -> Statuses:
    """Give what the connection's metadata contexts say of the range."""
    assert request.conn.agreed is not None
    one = bool(request.flags & nbd.CMD_FLAG_REQ_ONE)
    return [
        (number, describe(export, name, request.offset, request.length, one))
        for number, name in request.conn.agreed.contexts
    ]


def patience(request: Request) -> int:
    """Flags for reading the rest of a block that is written in part: after some tries it may wait."""
    return os.RWF_NOWAIT if request.tries < 3 else 0


def _refused(_view: memoryview, _offset: int, _length: int) -> bool:
    """Take the place of FastPath.write where the client may only read."""
    return False


def _large_hole(plan: list[tuple[int, int, int]]) -> bool:
    return any(fd == HOLE and length >= SMALL for fd, _, length in plan)


def _by_hole(plan: list[tuple[int, int, int]]) -> Iterable[tuple[bool, int, int]]:
    """Join neighbours that are all data, or all large holes, to (is hole, offset, bytes)."""
    joined: list[tuple[bool, int, int]] = []
    for fd, offset, length in plan:
        is_hole = fd == HOLE and length >= SMALL
        if joined and joined[-1][0] == is_hole:
            joined[-1] = (is_hole, joined[-1][1], joined[-1][2] + length)
        else:
            joined.append((is_hole, offset, length))
    return joined

# SPDX-License-Identifier: Apache-2.0
"""Transmission, the client's side: requests out in batches, replies in any order.

At most ``depth`` requests or MAX_BYTES of payload are in flight: submitting more first handles replies.  What
a server may send in answer is bounded by what was asked, so memory is too.

A request the server refuses carries the typed error of its ``errno`` and the connection goes on.  A server
that breaks the protocol, hangs up or does not answer in time raises ProtocolError; the connection is closed
and every later call says so.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Self

from fisk_core import errors
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client_handshake import ExportInfo, clean_text
from fisk_core.dataplane.client_stream import Stream
from fisk_core.errors import FiskError, InvalidValue, ProtocolError, Unsupported

DEPTH = 16
MAX_BYTES = 64 << 20
"""Payload bytes in flight, both directions together."""

_BATCH = 8  # requests queued before they are sent without anybody waiting
_BATCH_BYTES = 64 << 10
_MAX_STATUS = 16 << 20  # bytes of one block-status chunk; nbdkit sends up to 8 MiB
_MAX_SPANS = 1 << 16  # pieces one structured read may come in, out of order
_MAX_ERROR = 8 + 6 + p.MAX_STRING
_MAX_ERRORS = 1024  # error chunks of one reply

_ERRORS: dict[int, type[FiskError]] = {
    p.EPERM: errors.ReadOnly,
    p.EIO: errors.PoolError,
    p.ENOMEM: errors.LimitExceeded,
    p.EINVAL: errors.InvalidValue,
    p.ENOSPC: errors.NoSpace,
    p.EOVERFLOW: errors.LimitExceeded,
    p.ENOTSUP: errors.Unsupported,
    p.ESHUTDOWN: errors.PoolError,
}
_NAMES = {
    p.CMD_READ: "read",
    p.CMD_WRITE: "write",
    p.CMD_FLUSH: "flush",
    p.CMD_TRIM: "trim",
    p.CMD_CACHE: "cache",
    p.CMD_WRITE_ZEROES: "zero",
    p.CMD_BLOCK_STATUS: "block status",
}

_U32 = struct.Struct(">I")

Status = list[tuple[int, int]]
"""Consecutive (length, flags) of one metadata context."""


class Pending:
    """A request on its way.  ``result`` waits and gives the read's buffer, the block status, or None."""

    __slots__ = (
        "buffer", "client", "command", "done", "error", "errors", "length", "offset", "received", "spans",
        "status",
    )  # fmt: skip

    def __init__(self, client: "Transmission", command: int, offset: int, length: int) -> None:
        self.client = client
        self.command = command
        self.offset = offset
        self.length = length
        self.done = False
        self.error: FiskError | None = None
        self.buffer: memoryview | None = None
        self.received = 0
        self.errors = 0
        self.spans: list[list[int]] = []
        self.status: dict[str, Status] = {}

    def wait(self) -> None:
        """Wait until the request is answered; only a broken connection raises."""
        while not self.done:
            self.client.progress()

    def result(self) -> Any:
        """Wait and raise the request's error, if any."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.buffer if self.command == p.CMD_READ else self.status or None


class Transmission:
    """A connection in transmission.  Not for several threads at once; a context manager."""

    def __init__(self, stream: Stream, info: ExportInfo, peer: str, depth: int = DEPTH) -> None:
        self.info = info
        self.peer = peer
        self.depth = depth
        self._stream = stream
        self._broken: str | None = None
        self._flying: dict[int, Pending] = {}
        self._bytes = 0
        self._queued = 0
        self._cookie = 0
        self._chunks = {
            p.CHUNK_NONE: self._on_none,
            p.CHUNK_OFFSET_DATA: self._on_data,
            p.CHUNK_OFFSET_HOLE: self._on_hole,
            p.CHUNK_BLOCK_STATUS: self._on_status,
        }

    def close(self) -> None:
        """Say good-bye (unless the connection is broken) and close.  Requests in flight are abandoned."""
        if self._broken is None:
            self._broken = "the connection is closed"
            try:
                self._stream.put(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_DISC, 0, 0, 0))
                self._stream.push()
            except FiskError:
                pass  # a server that is gone already has nothing to be told
        self._stream.close()
        self._flying.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the export."""
        return self.info.size

    @property
    def contexts(self) -> tuple[str, ...]:
        """Metadata contexts agreed on."""
        return tuple(self.info.contexts.values())

    @property
    def read_only(self) -> bool:
        return self._has(p.TFLAG_READ_ONLY)

    @property
    def can_flush(self) -> bool:
        return self._has(p.TFLAG_SEND_FLUSH)

    @property
    def can_multi_conn(self) -> bool:
        """Whether a flush on one connection covers writes answered on another."""
        return self._has(p.TFLAG_CAN_MULTI_CONN)

    def _has(self, flag: int) -> bool:
        return bool(self.info.flags & p.TFLAG_HAS_FLAGS and self.info.flags & flag)

    def _need(self, flag: int, what: str) -> None:
        if not self._has(flag):
            raise Unsupported(f"{self.peer} cannot {what}")

    # Single requests: the pipelined interface.  Lengths within the limits, offsets aligned to info.minimum.

    def submit_read(
        self, offset: int, length: int, into: memoryview | None = None, flags: int = 0
    ) -> Pending:
        """Read up to info.maximum bytes, into ``into`` if given (as long as ``length``)."""
        pending = Pending(self, p.CMD_READ, offset, length)
        pending.buffer = memoryview(bytearray(length)) if into is None else into
        return self._submit(pending, flags)

    def submit_write(self, offset: int, data: bytes | bytearray | memoryview, flags: int = 0) -> Pending:
        """Write up to info.maximum bytes; ``data`` must not change until the request is done."""
        view = memoryview(data).cast("B")
        return self._submit(Pending(self, p.CMD_WRITE, offset, len(view)), flags, view)

    def submit_flush(self) -> Pending:
        """Make durable what was answered before this is sent."""
        self._need(p.TFLAG_SEND_FLUSH, "flush")
        return self._submit(Pending(self, p.CMD_FLUSH, 0, 0))

    def submit_trim(self, offset: int, length: int, flags: int = 0) -> Pending:
        self._need(p.TFLAG_SEND_TRIM, "trim")
        return self._submit(Pending(self, p.CMD_TRIM, offset, length), flags)

    def submit_zero(self, offset: int, length: int, flags: int = 0) -> Pending:
        self._need(p.TFLAG_SEND_WRITE_ZEROES, "write zeros")
        return self._submit(Pending(self, p.CMD_WRITE_ZEROES, offset, length), flags)

    def submit_cache(self, offset: int, length: int) -> Pending:
        self._need(p.TFLAG_SEND_CACHE, "read ahead")
        return self._submit(Pending(self, p.CMD_CACHE, offset, length))

    def submit_block_status(self, offset: int, length: int, flags: int = 0) -> Pending:
        """One request for all agreed contexts; the result maps their names to Status within ``length``."""
        if not self.info.contexts:
            raise Unsupported(f"{self.peer} has none of the metadata contexts asked for")
        return self._submit(Pending(self, p.CMD_BLOCK_STATUS, offset, length), flags)

    def _submit(self, pending: Pending, flags: int = 0, data: memoryview | None = None) -> Pending:
        size = pending.length if pending.command in (p.CMD_READ, p.CMD_WRITE) else 0
        self._check(pending, size)
        while self._flying and (len(self._flying) >= self.depth or self._bytes + size > MAX_BYTES):
            self.progress()
        self._cookie = cookie = (self._cookie + 1) & 0xFFFFFFFFFFFFFFFF
        self._flying[cookie] = pending
        self._bytes += size
        head = p.REQUEST.pack(p.REQUEST_MAGIC, flags, pending.command, cookie, pending.offset, pending.length)
        stream = self._stream
        if data is None:
            stream.put(head)
        else:
            stream.put(head, data)
        self._queued += 1
        if self._queued >= _BATCH or stream.queued >= _BATCH_BYTES:
            self.send()
        return pending

    def _check(self, pending: Pending, size: int) -> None:
        if self._broken is not None:
            raise ProtocolError(f"{self.peer}: {self._broken}")
        what = _NAMES[pending.command]
        if pending.offset < 0 or pending.length < 0 or pending.offset + pending.length > self.info.size:
            range_ = f"{pending.length} bytes at {pending.offset}"
            raise InvalidValue(f"{what} of {range_} passes the end, {self.info.size}")
        if size > self.info.maximum:
            raise InvalidValue(f"{what} of {size} bytes: {self.peer} takes {self.info.maximum} at most")

    # Moving bytes

    def send(self) -> None:
        """Send what is queued, handling replies where the server wants to be heard first."""
        try:
            self._stream.arm()
            while not self._stream.push_or_input():
                self._receive()
        except BaseException as exc:
            self._break(exc)
            raise
        self._queued = 0

    def progress(self) -> None:
        """Send what is queued and handle one reply or chunk of a reply (waiting for it)."""
        if self._broken is not None:
            raise ProtocolError(f"{self.peer}: {self._broken}")
        try:
            self._stream.arm()
            if self._queued and self._stream.push():
                self._queued = 0
            # A chunk that neither brings data nor ends a reply is no progress: it must not re-arm the
            # timeout.
            while not self._receive():
                pass
        except BaseException as exc:
            self._break(exc)
            raise

    def _break(self, exc: BaseException) -> None:
        """An interruption is as bad as a protocol error: the position in the stream is lost."""
        if self._broken is None:
            self._broken = f"the connection was given up: {exc or type(exc).__name__}"
        self._stream.close()
        self._flying.clear()

    def _receive(self) -> bool:
        """Handle one simple reply or chunk; True when it brought data or ended a request."""
        stream = self._stream
        magic, word, cookie = p.SIMPLE_REPLY.unpack_from(stream.buffer, stream.take(p.SIMPLE_REPLY.size))
        pending = self._flying.get(cookie)
        if pending is None:
            raise ProtocolError(f"{self.peer} answered a request nobody made")
        if magic == p.SIMPLE_REPLY_MAGIC:
            self._simple(pending, word)
            self._finish(cookie, pending)
            return True
        if magic != p.STRUCTURED_REPLY_MAGIC or not self.info.structured:
            raise ProtocolError(f"{self.peer} sent nonsense instead of a reply")
        # The rest of CHUNK: what SIMPLE_REPLY calls the error are its flags and type, and a length follows.
        flags, kind = word >> 16, word & 0xFFFF
        (length,) = _U32.unpack_from(stream.buffer, stream.take(4))
        moved = self._chunk(pending, kind, length)
        if flags & p.CHUNK_FLAG_DONE:
            self._complete(pending)
            self._finish(cookie, pending)
            return True
        if kind == p.CHUNK_NONE:
            raise self._malformed(pending)
        return moved

    def _finish(self, cookie: int, pending: Pending) -> None:
        del self._flying[cookie]
        if pending.command in (p.CMD_READ, p.CMD_WRITE):
            self._bytes -= pending.length
        pending.done = True

    def _malformed(self, pending: Pending) -> ProtocolError:
        return ProtocolError(f"{self.peer} sent a malformed reply to a {_NAMES[pending.command]} request")

    def _simple(self, pending: Pending, code: int) -> None:
        if code:
            pending.error = pending.error or self._request_error(pending, code, "")
            return
        if pending.command == p.CMD_READ and not self.info.structured:
            assert pending.buffer is not None  # every read has one
            self._stream.read_into(pending.buffer)
        elif pending.command in (p.CMD_READ, p.CMD_BLOCK_STATUS):
            raise self._malformed(pending)  # these must be answered in chunks

    def _request_error(self, pending: Pending, code: int, text: str) -> FiskError:
        kind = _ERRORS.get(code, errors.PoolError)
        what = f"{_NAMES[pending.command]} of {pending.length} bytes at {pending.offset}"
        reason = text or (os.strerror(code) if code < 200 else f"error {code}")
        return kind(f"{self.peer}: {what}: {reason}")

    # Structured replies

    def _chunk(self, pending: Pending, kind: int, length: int) -> bool:
        handler = self._chunks.get(kind)
        if handler is not None:
            return handler(pending, length)
        if not kind & (1 << 15):
            raise ProtocolError(f"{self.peer} sent a chunk of unknown type {kind}")
        self._on_error(pending, length)
        return False

    def _on_none(self, pending: Pending, length: int) -> bool:
        if length:
            raise self._malformed(pending)
        return False

    def _on_data(self, pending: Pending, length: int) -> bool:
        if pending.buffer is None or length <= p.CHUNK_OFFSET.size:
            raise self._malformed(pending)
        stream = self._stream
        (offset,) = p.CHUNK_OFFSET.unpack_from(stream.buffer, stream.take(p.CHUNK_OFFSET.size))
        target = self._span(pending, offset, length - p.CHUNK_OFFSET.size)
        stream.read_into(target)
        return True

    def _on_hole(self, pending: Pending, length: int) -> bool:
        if pending.buffer is None or length != p.CHUNK_HOLE.size:
            raise self._malformed(pending)
        stream = self._stream
        offset, count = p.CHUNK_HOLE.unpack_from(stream.buffer, stream.take(p.CHUNK_HOLE.size))
        target = self._span(pending, offset, count)
        target[:] = bytes(count)
        return True

    def _span(self, pending: Pending, offset: int, length: int) -> memoryview:
        """Note that the reply has these bytes, and give where in the buffer they belong."""
        start = offset - pending.offset
        pending.received += length
        if not length or start < 0 or start + length > pending.length or pending.received > pending.length:
            raise self._malformed(pending)
        spans = pending.spans
        if spans and spans[-1][1] == start:
            spans[-1][1] = start + length
        elif len(spans) < _MAX_SPANS:
            spans.append([start, start + length])
        else:
            raise self._malformed(pending)
        assert pending.buffer is not None  # checked by the callers
        return pending.buffer[start : start + length]

    def _on_status(self, pending: Pending, length: int) -> bool:
        items, rest = divmod(length - p.CONTEXT_ID.size, p.STATUS_EXTENT.size)
        if pending.command != p.CMD_BLOCK_STATUS or rest or items <= 0 or length > _MAX_STATUS:
            raise self._malformed(pending)
        data = self._stream.read(length)
        name = self.info.contexts.get(p.CONTEXT_ID.unpack_from(data)[0])
        if name is None or name in pending.status:
            raise self._malformed(pending)
        pending.status[name] = self._clamp(pending, p.STATUS_EXTENT.iter_unpack(data[p.CONTEXT_ID.size :]))
        return True

    def _clamp(self, pending: Pending, extents: Iterable[tuple[int, int]]) -> Status:
        """Servers may describe more than was asked for; a length of zero would make us ask for ever."""
        status: Status = []
        left = pending.length
        for length, flags in extents:
            if length == 0:
                raise self._malformed(pending)
            if left:
                status.append((min(length, left), flags))
                left -= status[-1][0]
        return status

    def _on_error(self, pending: Pending, length: int) -> None:
        if not p.CHUNK_ERROR_HEAD.size <= length <= _MAX_ERROR:
            raise self._malformed(pending)
        data = self._stream.read(length)
        code, said = p.CHUNK_ERROR_HEAD.unpack_from(data)
        pending.errors += 1
        if not code or said > length - p.CHUNK_ERROR_HEAD.size or pending.errors > _MAX_ERRORS:
            raise self._malformed(pending)
        if pending.error is None:
            text = clean_text(data[p.CHUNK_ERROR_HEAD.size :][:said])
            pending.error = self._request_error(pending, code, text)

    def _complete(self, pending: Pending) -> None:
        """A reply without error must have brought every byte once, or every context."""
        if pending.error is not None:
            return
        if pending.command == p.CMD_READ:
            # Never more bytes than asked for (_span): so without overlap, as many means each of them.
            spans = sorted(pending.spans)
            overlap = any(one[1] > two[0] for one, two in pairwise(spans))
            if pending.received != pending.length or overlap:
                raise self._malformed(pending)
        elif pending.command == p.CMD_BLOCK_STATUS and len(pending.status) != len(self.info.contexts):
            raise self._malformed(pending)


def settle(pendings: Sequence[Pending]) -> None:
    """Wait for all, so that nobody's buffer is written behind their back; then raise the first error."""
    for pending in pendings:
        pending.wait()
    for pending in pendings:
        if pending.error is not None:
            raise pending.error

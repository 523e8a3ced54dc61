# SPDX-License-Identifier: Apache-2.0
"""A small, pipelined, synchronous NBD client: one connection, one thread.

Whole operations (``read``, ``write``, ``zero``, ``extents`` …) take any offset and length; streams of
requests (``read_many``, ``write_many``) and single ones (``submit_*``, which give a handle) keep the
connection busy.  Errors are as ``client_transmission`` says: typed for a request, ProtocolError for a
connection.
"""

import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client_handshake import ExportInfo, ExportName, Negotiation
from fisk_core.dataplane.client_stream import Stream
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.client_transmission import DEPTH, MAX_BYTES, Pending, Status, Transmission, settle
from fisk_core.dataplane.client_uri import Target, as_target
from fisk_core.errors import InvalidValue, NotFound, ProtocolError, Unsupported, from_oserror

TIMEOUT = 60.0
"""Seconds a server may take for one reply, and for the whole negotiation."""

_EFFECT = 1 << 30  # bytes of one trim, zero or cache request: 32 bits are all the protocol has
_STATUS = (1 << 32) - (64 << 10)  # bytes of one status request: the most that is aligned to any minimum block

Address = str | tuple[str, int] | Path | Target
"""An NBD URI, the path of a unix socket, (host, port), or a target."""


class NbdClient(Transmission):
    """A connection to one export."""

    # Connecting

    @classmethod
    def connect(
        cls,
        target: Address,
        *,
        export: str | None = None,
        contexts: Sequence[str] = (),
        tls: Tls | None = None,
        timeout: float = TIMEOUT,
        depth: int = DEPTH,
        structured: bool = True,
    ) -> "NbdClient":
        """Connect to an NBD URI, a unix socket's path or (host, port) and enter transmission.

        ``export`` and ``tls`` override what a URI says.  ``contexts`` are metadata contexts wished for; those
        the server has are in ``client.contexts``.  Raises NotFound (no such server or export), ProtocolError,
        Unsupported, InvalidValue.
        """
        where = as_target(target)
        stream, talk = negotiate(where, tls, timeout)
        name = where.export if export is None else export
        try:
            if structured and talk.agree_structured() and contexts:
                talk.agree_contexts(name, contexts)
            info = talk.go(name)
        except BaseException:
            stream.close()
            raise
        return cls(stream, info, f"NBD server {where}", depth)

    # Whole operations of any offset and length

    def read(self, offset: int, length: int) -> bytearray:
        """Give ``length`` bytes from ``offset``."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``."""
        start, end = self._outward(offset, len(buffer))
        if (start, end) == (offset, offset + len(buffer)):
            pieces = _pieces(offset, len(buffer), self.info.maximum)
            settle([self.submit_read(at, n, buffer[at - offset : at - offset + n]) for at, n in pieces])
        else:
            around = memoryview(self.read(start, end - start))
            buffer[:] = around[offset - start :][: len(buffer)]

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """Write ``data``; with ``fua`` it is durable when this returns.

        What does not cover whole minimum blocks of the server is read, changed and written back.
        """
        view = memoryview(data).cast("B")
        self._bound(offset, len(view))
        start, end = self._outward(offset, len(view))
        if (start, end) != (offset, offset + len(view)):
            view = self._padded(offset, view, start, end)
        flags, flush = self._fua(fua)
        pieces = _pieces(start, end - start, self.info.maximum)
        settle([self.submit_write(at, view[at - start : at - start + n], flags) for at, n in pieces])
        if flush:
            self.flush()

    def _fua(self, wanted: bool) -> tuple[int, bool]:
        """Give the command flag, or whether a flush must follow where the server has no FUA."""
        if not wanted:
            return 0, False
        return (p.CMD_FLAG_FUA, False) if self._has(p.TFLAG_SEND_FUA) else (0, True)

    def _bound(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.info.size:
            raise InvalidValue(f"{length} bytes at {offset} pass the end of {self.peer}, {self.info.size}")

    def _padded(self, offset: int, view: memoryview, start: int, end: int) -> memoryview:
        """Extend ``view`` to whole minimum blocks with the bytes around it."""
        head = self.read(start, offset - start) if start < offset else b""
        after = offset + len(view)
        tail = self.read(after, end - after) if after < end else b""
        return memoryview(b"".join((head, view, tail)))

    def _outward(self, offset: int, length: int) -> tuple[int, int]:
        small, end = self.info.minimum, offset + length
        return offset // small * small, max(end, min(-(-end // small) * small, self.info.size))

    def flush(self) -> None:
        """Make every write answered so far durable; raises Unsupported where the server cannot promise it."""
        self.submit_flush().result()

    def zero(self, offset: int, length: int, *, no_hole: bool = False, fua: bool = False) -> None:
        """Make the range read as zeros; ``no_hole`` keeps it allocated."""
        self._bound(offset, length)
        inner, end = self._inward(offset, length)
        if inner > offset or end < offset + length:
            self._write_zeros(offset, min(inner, offset + length) - offset, fua)
            self._write_zeros(max(end, inner), offset + length - max(end, inner), fua)
        if not self._has(p.TFLAG_SEND_WRITE_ZEROES):
            self._write_zeros(inner, end - inner, fua)
            return
        flags, flush = self._fua(fua)
        flags |= p.CMD_FLAG_NO_HOLE if no_hole else 0
        settle([self.submit_zero(at, n, flags) for at, n in _pieces(inner, end - inner, _EFFECT)])
        if flush:
            self.flush()

    def _write_zeros(self, offset: int, length: int, fua: bool) -> None:
        for at, count in _pieces(offset, length, min(1 << 20, self.info.maximum)):
            self.write(at, bytes(count), fua=fua)

    def _inward(self, offset: int, length: int) -> tuple[int, int]:
        """Give the whole minimum blocks inside the range (empty: start past end is cut to start)."""
        small = self.info.minimum
        start = -(-offset // small) * small
        return start, max(start, (offset + length) // small * small)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Say the range is no longer needed (only whole minimum blocks of it); raises Unsupported."""
        start, end = self._inward(offset, length)
        flags, flush = self._fua(fua)
        settle([self.submit_trim(at, n, flags) for at, n in _pieces(start, end - start, _EFFECT)])
        if flush:
            self.flush()

    def cache(self, offset: int, length: int) -> None:
        """Ask the server to read ahead; raises Unsupported."""
        start, end = self._outward(offset, length)
        settle([self.submit_cache(at, n) for at, n in _pieces(start, end - start, _EFFECT)])

    def block_status(self, offset: int, length: int, *, one: bool = False) -> dict[str, Status]:
        """One BLOCK_STATUS request (REQ_ONE if ``one``); it may describe less than ``length``."""
        pending = self.submit_block_status(offset, length, p.CMD_FLAG_REQ_ONE if one else 0)
        status: dict[str, Status] = pending.result()
        return status

    def extents(
        self, offset: int = 0, length: int | None = None, context: str = p.CONTEXT_ALLOCATION
    ) -> Iterator[tuple[int, int, int]]:
        """Give consecutive (offset, length, flags) over the range, neighbours with equal flags joined.

        Without the ``base:allocation`` context everything counts as data (flags 0); other contexts raise
        Unsupported.
        """
        end = self.info.size if length is None else offset + length
        at, run = offset, 0
        current: int | None = None
        for count, flags in self._status_items(offset, end, context):
            if flags != current and current is not None:
                yield at, run, current
                at, run = at + run, 0
            current, run = flags, run + count
        if current is not None and run:
            yield at, run, current

    def _status_items(self, offset: int, end: int, context: str) -> Iterator[tuple[int, int]]:
        if context not in self.contexts:
            if context != p.CONTEXT_ALLOCATION:
                raise Unsupported(f"{self.peer} has no metadata context {context}")
            yield end - offset, 0
            return
        while offset < end:
            start, stop = self._outward(offset, min(end - offset, _STATUS))
            before = offset
            for count, flags in self.block_status(start, stop - start)[context]:
                # Rounding outward may have described a little before and after what was asked for.
                step = min(start + count, end) - offset
                if step > 0:
                    yield step, flags
                    offset += step
                start += count
            if offset == before:
                raise ProtocolError(f"{self.peer} described less than one minimum block")

    # Streams of requests

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        """Read (offset, length) ranges, each within info.maximum, keeping up to ``depth`` in flight.

        Gives (offset, data) in the order of ``ranges``; ``data`` is good until the next step only.
        """
        spare: list[bytearray] = []
        queue: deque[tuple[Pending, bytearray]] = deque()
        for offset, length in ranges:
            if len(queue) >= self.depth or (queue and self._bytes + length > MAX_BYTES):
                yield from self._next(queue, spare)
            store = spare.pop() if spare else bytearray()
            if len(store) < length:
                store = bytearray(length)
            queue.append((self.submit_read(offset, length, memoryview(store)[:length]), store))
        self.send()
        while queue:
            yield from self._next(queue, spare)

    def _next(
        self, queue: deque[tuple[Pending, bytearray]], spare: list[bytearray]
    ) -> Iterator[tuple[int, memoryview]]:
        pending, store = queue.popleft()
        yield pending.offset, pending.result()
        pending.buffer = None
        spare.append(store)

    def write_many(self, items: Iterable[tuple[int, bytes | bytearray | memoryview]]) -> None:
        """Write (offset, data) items, each within info.maximum, keeping up to ``depth`` in flight.

        An item's data must not change until this returns.  The first error stops it.
        """
        queue: deque[Pending] = deque()
        for offset, data in items:
            while queue and (queue[0].done or len(queue) >= self.depth):
                queue.popleft().result()
            queue.append(self.submit_write(offset, data))
        settle(list(queue))


def _pieces(offset: int, length: int, limit: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        count = min(limit, end - offset)
        yield offset, count
        offset += count


def dial(target: Target, timeout: float) -> socket.socket:
    """Connect a socket; raises NotFound where nobody listens, PoolError otherwise."""
    what = f"connect to NBD server {target}"
    try:
        if target.path is None:
            sock = socket.create_connection((target.host or "localhost", target.port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(target.path)
        except BaseException:
            sock.close()
            raise
        return sock
    except (ConnectionRefusedError, socket.gaierror) as exc:
        raise NotFound(f"{what}: {exc.strerror}") from exc
    except TimeoutError as exc:
        raise ProtocolError(f"{what}: no answer within {timeout:g} s") from exc
    except OSError as exc:
        raise from_oserror(exc, what) from exc
    except ValueError as exc:  # no host is called so, and no file either
        raise InvalidValue(f"{what}: {exc}") from exc


def negotiate(target: Target, tls: Tls | None, timeout: float) -> tuple[Stream, Negotiation]:
    """Connect and greet, under TLS where asked for; the caller chooses what to do with the server."""
    tls = tls or target.tls
    stream = Stream(dial(target, timeout), timeout, f"NBD server {target}")
    try:
        talk = Negotiation(stream, f"NBD server {target}")
        if tls is not None:
            talk.start_tls(tls, target.host or "localhost")
    except BaseException:
        stream.close()
        raise
    return stream, talk


def hand_over(target: Address, *, timeout: float = TIMEOUT) -> tuple[socket.socket, ExportInfo]:
    """Connect and enter transmission, for another to speak it: with simple replies, and without TLS.

    Raises what ``NbdClient.connect`` raises.
    """
    where = as_target(target)
    if where.tls is not None:
        raise Unsupported(f"NBD server {where} is under TLS: its connections cannot be handed over")
    stream, talk = negotiate(where, None, timeout)
    try:
        info = talk.go(where.export)
        return stream.release(), info
    except BaseException:
        stream.close()
        raise


def list_exports(target: Address, *, tls: Tls | None = None, timeout: float = TIMEOUT) -> list[ExportName]:
    """Give what a server offers; raises Unsupported where it does not tell."""
    stream, talk = negotiate(as_target(target), tls, timeout)
    try:
        names = talk.list_exports()
        talk.abort()
    finally:
        stream.close()
    return names


def export_info(target: Address, *, tls: Tls | None = None, timeout: float = TIMEOUT) -> ExportInfo:
    """Ask for an export's size and flags without using it (INFO); raises NotFound, Unsupported."""
    where = as_target(target)
    stream, talk = negotiate(where, tls, timeout)
    try:
        info = talk.info(where.export)
        talk.abort()
    finally:
        stream.close()
    return info

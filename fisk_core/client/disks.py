# SPDX-License-Identifier: Apache-2.0
"""The bytes of Fisks on the daemon's side, over NBD: open disks, and Fisks under construction."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fisk_core.dataplane import protocol
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.client_transmission import Pending
from fisk_core.dataplane.client_uri import Target, parse_uri
from fisk_core.errors import FiskError, InvalidValue, NotFound, ReadOnly, Unavailable
from fisk_core.model import Change, Extent, Fisk

if TYPE_CHECKING:
    from fisk_core.client.engine import RemoteEngine

_FLUSH_EVERY = 64 << 20
"""bytes written to a Fisk under construction after which a flush is sent, unless one is under way"""


def reachable(uris: Sequence[str]) -> list[str]:
    """Give the URIs that may be reached from here, the quickest first: sockets of this host, then TCP.

    A worker's socket is for the daemon's user; whoever else may talk to the daemon uses TCP.
    """
    targets = [(uri, parse_uri(uri)) for uri in uris]
    here = [uri for uri, target in targets if target.path is not None and os.access(target.path, os.W_OK)]
    return here + [uri for uri, target in targets if target.path is None]


def connect(uris: Sequence[str], tls: Tls | None) -> NbdClient:
    """Connect to the first URI that somebody answers at; raises Unavailable when there is none."""
    why: FiskError | None = None
    for uri in reachable(uris):
        target: Target = parse_uri(uri)
        try:
            wanted = tls if target.tls is not None else None
            return NbdClient.connect(target, tls=wanted, contexts=(protocol.CONTEXT_ALLOCATION,))
        except NotFound as exc:
            why = exc
    raise Unavailable(f"no NBD server at {', '.join(uris) or 'all'} can be reached from here") from why


class RemoteDisk:
    """An attached Fisk with a connection to its worker; ``close`` makes it durable and detaches.

    Not for several threads at once.
    """

    def __init__(
        self, client: NbdClient, block_size: int, writable: bool, detach: Callable[[], None]
    ) -> None:
        self.client = client
        self.block_size = block_size
        self.writable = writable
        self._detach = detach
        self._open = True

    @property
    def size(self) -> int:
        return self.client.size

    def read(self, offset: int, length: int) -> bytes:
        """Give ``length`` bytes from ``offset``; raises InvalidValue past the end."""
        self._check(offset, length)
        return bytes(self.client.read(offset, length))

    def extents(self) -> Iterator[Extent]:
        """Give what is data and what reads as zeros, ascending and without gaps."""
        for offset, length, flags in self.client.extents():
            yield Extent(offset, length, Change.ZERO if flags & protocol.STATE_ZERO else Change.DATA)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write; raises ReadOnly, InvalidValue past the end, NoSpace."""
        self._check(offset, len(data), change=True)
        self.client.write(offset, data)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._check(offset, length, change=True)
        self.client.zero(offset, length)

    def trim(self, offset: int, length: int) -> None:
        """Give the range back where that is possible."""
        self._check(offset, length, change=True)
        self.client.trim(offset, length)

    def flush(self) -> None:
        """Make everything written durable."""
        if self.writable:
            self.client.flush()

    def _check(self, offset: int, length: int, *, change: bool = False) -> None:
        if change and not self.writable:
            raise ReadOnly("the Fisk was opened for reading only")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise InvalidValue(f"{length} bytes at {offset} pass the end, {self.size}")

    def close(self) -> None:
        """Flush, disconnect, detach; raises when the flush fails, and detaches all the same."""
        if not self._open:
            return
        self._open = False
        try:
            with self.client:
                self.flush()
        finally:
            self._detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FillingDisk:
    """The disk of a Fisk under construction: writes are on their way while the next one is made ready.

    What was written is made durable on the way, so that the medium is at work from the beginning and the last
    flush has little to wait for.
    """

    def __init__(self, client: NbdClient, block_size: int) -> None:
        self.client = client
        self.block_size = block_size
        self._flying: deque[Pending] = deque()
        self._flush: Pending | None = None
        self._unflushed = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Send; what becomes of it a later write, or ``flush``, tells."""
        view, limit = memoryview(bytes(data)), self.client.info.maximum  # the caller uses its buffer again
        for start in range(0, len(view), limit):
            part = view[start : start + limit]
            while self._flying and (self._flying[0].done or len(self._flying) >= self.client.depth):
                self._flying.popleft().result()
            self._flying.append(self.client.submit_write(offset + start, part))
        self._unflushed += len(view)
        if self._unflushed >= _FLUSH_EVERY and (self._flush is None or self._flush.done):
            self._end_flush()
            self._flush, self._unflushed = self.client.submit_flush(), 0

    def _end_flush(self) -> None:
        if self._flush is not None:
            self._flush.result()
            self._flush = None

    def flush(self) -> None:
        """Wait for every write and make it durable; raises the first error."""
        while self._flying:
            self._flying.popleft().result()
        self._end_flush()
        self.client.flush()


class RemoteBuilding:
    """A hidden Fisk on the daemon's side; as a context manager it is aborted unless finished."""

    def __init__(self, engine: "RemoteEngine", fisk_id: str, disk: FillingDisk) -> None:
        self._engine = engine
        self.fisk_id = fisk_id
        self.disk = disk
        self._open = True

    def finish(self, *, size: int, frozen: bool, attributes: Mapping[str, str] | None = None) -> Fisk:
        """Make it durable and show it; raises what a write or the flush raises, and ``abort`` is due."""
        self.disk.flush()
        self.disk.client.close()
        made = self._engine.show_build(self.fisk_id, size=size, frozen=frozen, attributes=attributes)
        self._open = False
        return made

    def abort(self) -> None:
        """Leave no trace; harmless after ``finish`` and when done twice."""
        if not self._open:
            return
        self._open = False
        self.disk.client.close()
        self._engine.drop_build(self.fisk_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

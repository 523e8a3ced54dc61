# SPDX-License-Identifier: Apache-2.0
"""What a worker counts: requests, bytes, latencies, and how its map and cache are.

Every answered request is counted once, under its kind, or under ``errors`` when the answer was an error.
What is answered at once is counted with the batch it went out with, so that the figures are exact and cost
next to nothing.  Latency is from when a whole request was received to when its answer was given to the
socket.
"""

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from fisk_core import _linux
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.cold import THREADS

if TYPE_CHECKING:
    from fisk_core.dataplane.connection import Connection
    from fisk_core.dataplane.disk import Disk
    from fisk_core.dataplane.server import Server

BOUNDS = (
    *(10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1.0, 2.0, 5.0, 10.0),
)
"""upper bounds of the latency classes, in seconds; one more class has what is above the last"""
LOOK_SECONDS = 1.0
"""how long a look at map and page cache holds good"""
_POINTER, _OWNER = 8, 2  # bytes for a page, and for a block of a page with several owners
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STORED = (
    "trims",
    "zeroes",
    "read_bytes",
    "write_bytes",
    "errors",
    "corrupt",
    "cold_reads",
    "throttled",
    "syncs",
)
_COUNTED = {
    nbd.CMD_READ: "read_bytes",
    nbd.CMD_WRITE: "write_bytes",
    nbd.CMD_TRIM: "trims",
    nbd.CMD_WRITE_ZEROES: "zeroes",
}


class Histogram:
    """Requests by their latency, and the sum of these in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Metrics:
    """The counters of one server, from its start; they go on where a successor takes over."""

    def __init__(self) -> None:
        self.trims = self.zeroes = 0
        self.read_bytes = self.write_bytes = 0
        self.errors = self.cold_reads = self.corrupt = 0
        self.throttled = 0.0
        """seconds connections waited because of limits, added up"""
        self.syncs = 0
        """times data and map were made durable; ``flushes`` are what clients asked for"""
        self._read, self._write, self._flush = Histogram(), Histogram(), Histogram()
        self._by_kind = {
            nbd.CMD_READ: self._read,
            nbd.CMD_WRITE: self._write,
            nbd.CMD_FLUSH: self._flush,
        }

    def batch(self, received: float, count: int, read_bytes: int, writes: int, write_bytes: int) -> None:
        """Count requests that were received at one time and have just been answered together.

        What is not among the ``writes`` of them were reads.
        """
        if not count:
            return
        seconds = monotonic() - received
        place = bisect_left(BOUNDS, seconds)
        if writes:
            self._write.counts[place] += writes
            self._write.sum += seconds * writes
            self.write_bytes += write_bytes
            count -= writes
        if count:
            histogram = self._read
            histogram.counts[place] += count
            histogram.sum += seconds * count
            self.read_bytes += read_bytes

    def one(self, kind: int, length: int, seconds: float) -> None:
        """Count one request that was answered without an error."""
        if histogram := self._by_kind.get(kind):
            histogram.add(seconds)
        if name := _COUNTED.get(kind):
            setattr(self, name, getattr(self, name) + (length if kind in self._by_kind else 1))

    @property
    def reads(self) -> int:
        return sum(self._read.counts)

    @property
    def writes(self) -> int:
        return sum(self._write.counts)

    @property
    def flushes(self) -> int:
        return sum(self._flush.counts)

    def counted(self) -> dict[str, Any]:
        """Give everything counted; :meth:`go_on_from` reads it."""
        named = {"read": self._read, "write": self._write, "flush": self._flush}
        latency: dict[str, Any] = {"bounds": list(BOUNDS)}
        latency |= {name: list(histogram.counts) for name, histogram in named.items()}
        latency |= {f"{name}_sum": histogram.sum for name, histogram in named.items()}
        counts = {name: getattr(self, name) for name in ("reads", "writes", "flushes", *_STORED)}
        return {**counts, "latency": latency}

    def go_on_from(self, counted: dict[str, Any]) -> None:
        """Take over what a predecessor counted, perhaps one of another version: what fits is taken."""
        for name in _STORED:
            setattr(self, name, counted.get(name, getattr(self, name)))
        latency = counted.get("latency", {})
        if latency.get("bounds") != list(BOUNDS):
            return
        for name, histogram in (("read", self._read), ("write", self._write), ("flush", self._flush)):
            histogram.counts, histogram.sum = list(latency[name]), latency[f"{name}_sum"]


def report(server: "Server", then: Callable[[dict[str, Any]], None]) -> None:
    """Call ``then`` with what the ``metrics`` operation answers."""

    def tell(look: Look) -> None:
        queue = sum(map(_waiting, server.connections))
        now = {"queue": queue, "connections": len(server.connections)}
        then({**server.metrics.counted(), **now, "map": look.map, "cache": {"bytes_resident": look.resident}})

    server.looks.take(tell)


def _waiting(conn: "Connection") -> int:
    """Requests of a connection that wait: for the disk, and in the inbox for their turn."""
    if conn.agreed is None or conn.stream is not None:
        return conn.pending
    count, at = conn.pending, 0
    while conn.have - at >= nbd.REQUEST.size:
        _, _, kind, _, _, length = nbd.REQUEST.unpack_from(conn.inbox, at)
        at += nbd.REQUEST.size + (length if kind == nbd.CMD_WRITE else 0)
        count += at <= conn.have
    return count


@dataclass(frozen=True, slots=True)
class Look:
    """How map and page cache are; ``resident`` is in bytes, None where the kernel does not tell."""

    map: dict[str, int]
    resident: int | None


class Looks:
    """Looks at the disk of one server: on a thread, for a large one takes milliseconds, and not too often."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._last: Look | None = None
        self._at = 0.0
        self._asked: list[Callable[[Look], None]] = []

    def take(self, then: Callable[[Look], None]) -> None:
        """Call ``then`` with a look that is not older than LOOK_SECONDS."""
        if self._last is not None and monotonic() - self._at < LOOK_SECONDS:
            then(self._last)
            return
        self._asked.append(then)
        if len(self._asked) > 1:
            return
        disk = self._server.disk
        fds = [fd for fd in disk.fds if fd >= 0]
        disk.layers.pinned += 1

        def done(look: Look | None, error: Exception | None) -> None:
            disk.layers.pinned -= 1
            asked, self._asked = self._asked, []
            self._last, self._at = look or Look({}, None), monotonic()
            for call in asked:
                call(self._last)

        self._server.loop.submit("read", THREADS, lambda: Look(_map(disk), _resident(fds)), done)


def _map(disk: "Disk") -> dict[str, int]:
    """``layers`` and ``pages`` of the disk, blocks changed since the last flush, ``bytes`` the map takes.

    The map may change meanwhile, but its lists are never replaced.
    """
    geometry, pages, mixed = disk.map.geometry, 0, 0
    for segment in disk.map.segments.copy():
        if segment is not None:
            pages += len(segment)
            mixed += sum(not isinstance(page, int) for page in segment)
    return {
        "layers": len(disk.map.layers) - 1,
        "pages": geometry.pages(disk.size),
        "dirty_blocks": sum(disk.map.dirty.copy().values()),
        "bytes": _POINTER * pages + _OWNER * mixed * geometry.blocks_per_page,
    }


def _resident(fds: list[int]) -> int | None:
    """Give the bytes of the files that are in the page cache, None where the kernel does not tell."""
    try:
        return _PAGE * sum(map(_linux.resident_pages, fds))
    except OSError:
        return None

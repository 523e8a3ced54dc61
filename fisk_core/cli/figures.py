# SPDX-License-Identifier: Apache-2.0
"""What ``fisk top`` shows: rates, from two looks at the counters of workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Worker = Mapping[str, Any]
"""a worker as the daemon tells of it"""


@dataclass(frozen=True, slots=True)
class Row:
    """One Fisk in use: requests and bytes per second, latencies in seconds (None: nothing was done)."""

    fisk: str
    fisk_id: str
    read_iops: float
    write_iops: float
    read_rate: float
    write_rate: float
    p50: float | None
    p99: float | None
    queue: int
    connections: int
    map_bytes: int

    @property
    def iops(self) -> float:
        return self.read_iops + self.write_iops

    @property
    def rate(self) -> float:
        return self.read_rate + self.write_rate

    def plain(self) -> dict[str, Any]:
        return asdict(self)


ORDERS = {
    "i": ("IOPS", lambda row: (-row.iops, row.fisk)),
    "b": ("bytes", lambda row: (-row.rate, row.fisk)),
    "l": ("latency", lambda row: (-(row.p99 or 0.0), row.fisk)),
    "u": ("queue", lambda row: (-row.queue, row.fisk)),
    "m": ("map", lambda row: (-row.map_bytes, row.fisk)),
    "n": ("name", lambda row: (row.fisk,)),
}
"""key → what it sorts by, and how"""


def rows(before: Iterable[Worker], now: Iterable[Worker], seconds: float) -> list[Row]:
    """Give a row for each worker of the later look; one that is new begins with zeros.

    A worker whose counters went down was started anew meanwhile: all it has counted is of now.
    """
    earlier = {each["fisk_id"]: _metrics(each) for each in before}
    return [_row(each, earlier.get(each["fisk_id"]), seconds) for each in now if _metrics(each)]


def _metrics(worker: Worker) -> Mapping[str, Any]:
    """Give what a worker counted; nothing when it did not answer."""
    found: Mapping[str, Any] = worker.get("metrics") or {}
    return found


def _row(worker: Worker, before: Mapping[str, Any] | None, seconds: float) -> Row:
    now = _metrics(worker)
    if before is None:
        before = now
    elif any(now[key] < before.get(key, 0) for key in ("reads", "writes")):
        before = {}
    counts = _latencies(now, before)
    bounds = now["latency"]["bounds"]
    share = 1 / max(seconds, 1e-9)
    return Row(
        fisk=worker.get("name") or worker["fisk_id"],
        fisk_id=worker["fisk_id"],
        read_iops=(now["reads"] - before.get("reads", 0)) * share,
        write_iops=(now["writes"] - before.get("writes", 0)) * share,
        read_rate=(now["read_bytes"] - before.get("read_bytes", 0)) * share,
        write_rate=(now["write_bytes"] - before.get("write_bytes", 0)) * share,
        p50=quantile(bounds, counts, 0.5),
        p99=quantile(bounds, counts, 0.99),
        queue=now["queue"],
        connections=now["connections"],
        map_bytes=now.get("map", {}).get("bytes", 0),
    )


def _latencies(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[int]:
    """Give how many reads and writes were in each class of latency since the first look."""
    kinds = ("read", "write")
    later = [now["latency"][kind] for kind in kinds]
    earlier = [before.get("latency", {}).get(kind) or [0] * len(later[0]) for kind in kinds]
    return [
        sum(new) - sum(old)
        for new, old in zip(zip(*later, strict=True), zip(*earlier, strict=True), strict=True)
    ]


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Give the latency that ``share`` of the requests did not pass, taken as spread evenly in their class.

    Of those above the last bound only that is known.  None when there are no requests.
    """
    total = sum(counts)
    if total <= 0:
        return None
    wanted, below, low = share * total, 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if below + count >= wanted and count:
            return low + (bound - low) * (wanted - below) / count
        below, low = below + count, bound
    return low

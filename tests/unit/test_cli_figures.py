# SPDX-License-Identifier: Apache-2.0
"""Rates and latencies from two looks at counters; how they are written."""

from typing import Any

import pytest

from fisk_core.cli.figures import quantile, rows
from fisk_core.cli.live import count, duration, size

BOUNDS = [0.001, 0.01, 0.1]


def worker(reads: int, writes: int, read: list[int], write: list[int], fisk_id: str = "1") -> dict[str, Any]:
    metrics = {
        "reads": reads, "writes": writes, "read_bytes": reads * 4096, "write_bytes": writes * 512, "queue": 3,
        "connections": 2, "latency": {"bounds": BOUNDS, "read": read, "write": write}, "map": {"bytes": 8192},
    }  # fmt: skip
    return {"fisk_id": fisk_id, "name": f"fisk-{fisk_id}", "metrics": metrics}


def test_rates() -> None:
    before = [worker(100, 10, [100, 0, 0, 0], [10, 0, 0, 0])]
    now = [worker(300, 50, [100, 200, 0, 0], [10, 40, 0, 0])]
    (row,) = rows(before, now, 2.0)
    assert (row.fisk, row.read_iops, row.write_iops) == ("fisk-1", 100, 20)
    assert (row.read_rate, row.write_rate, row.rate) == (409600, 10240, 419840)
    assert (row.queue, row.connections, row.map_bytes) == (3, 2, 8192)
    assert row.p50 == pytest.approx(0.0055)
    assert row.p99 == pytest.approx(0.001 + 0.009 * 0.99)


def test_a_worker_that_is_new_or_began_anew() -> None:
    (row,) = rows([], [worker(100, 0, [100, 0, 0, 0], [0] * 4)], 1.0)
    assert (row.read_iops, row.p50) == (0, None)
    before = [worker(100, 0, [100, 0, 0, 0], [0] * 4)]
    (row,) = rows(before, [worker(30, 0, [30, 0, 0, 0], [0] * 4)], 1.0)
    assert row.read_iops == 30


def test_workers_that_do_not_answer_are_left_out() -> None:
    silent = {"fisk_id": "2", "name": "silent", "metrics": None}
    assert [row.fisk_id for row in rows([silent], [worker(0, 0, [0] * 4, [0] * 4), silent], 1.0)] == ["1"]


@pytest.mark.parametrize(
    ("counts", "share", "latency"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.0005),
        ([0, 10, 0, 0], 1.0, 0.01),
        ([5, 0, 5, 0], 0.99, 0.01 + 0.09 * 0.98),
        ([0, 0, 0, 10], 0.5, 0.1),
        ([99, 0, 0, 1], 0.99, 0.001),
    ],
)
def test_quantile(counts: list[int], share: float, latency: float | None) -> None:
    assert quantile(BOUNDS, counts, share) == (pytest.approx(latency) if latency else None)


def test_short_numbers() -> None:
    assert [count(x) for x in (0, 999, 9999.4, 12345, 123456, 2.5e6, 3e9)] == [
        "0", "999", "9999", "12.3k", "123k", "2.5M", "3G",
    ]  # fmt: skip
    assert [size(x) for x in (0, 1023, 1536, 2 << 20, 1023 << 20)] == ["0", "1023", "1.5K", "2.0M", "1023M"]
    assert [duration(x) for x in (None, 2e-6, 55e-6, 0.0012, 0.5, 2.0)] == [
        "-", "2.0us", "55us", "1.2ms", "500ms", "2.0s",
    ]  # fmt: skip


def test_numbers_stay_short() -> None:
    for power in range(15):
        for digit in (1, 4.5, 9.96, 9.9999):
            value = digit * 10**power
            assert len(count(value)) <= 5 or value > 1e12
            assert len(size(value)) <= 5
            assert len(duration(value / 1e6)) <= 5 or value > 9e9

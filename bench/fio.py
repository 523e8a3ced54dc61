# SPDX-License-Identifier: Apache-2.0
"""One run of fio, and the numbers we want from its JSON."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import BenchFailed, call


@dataclass(frozen=True)
class Load:
    """What fio shall do: ``rw`` in fio's words, ``block`` bytes a request, ``depth`` requests in flight.

    ``align``: only offsets that are multiples of it, where it is not 0.
    """

    rw: str
    block: int
    depth: int
    align: int = 0

    @property
    def writes(self) -> bool:
        """Tell whether the load writes."""
        return "write" in self.rw


@dataclass(frozen=True)
class Outcome:
    """What one run measured: requests/s, bytes/s, and completion latency in microseconds."""

    iops: float
    bandwidth: float
    mean_us: float
    max_us: float


@dataclass(frozen=True)
class Target:
    """What fio works on: options that name an engine and a file or URI, and variables for its environment."""

    options: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def nbd(cls, uri: str) -> "Target":
        """An NBD server, through fio's own client."""
        return cls(("--ioengine=nbd", f"--uri={uri}"))

    @classmethod
    def direct(cls, path: Path) -> "Target":
        """A file, by io_uring and past the page cache: what the device can do."""
        return cls(("--ioengine=io_uring", "--direct=1", f"--filename={path}"))


def run(target: Target, load: Load, *, size: int, seconds: float, once: bool = False, cwd: Path) -> Outcome:
    """Apply ``load`` to the first ``size`` bytes of ``target`` for ``seconds``; raises BenchFailed.

    ``once``: touch every offset at most once, and stop early when all were touched.
    """
    stride = load.align or load.block
    command = [
        *("fio", "--name=load", "--output-format=json", "--randrepeat=0", "--group_reporting"),
        *target.options,
        *(f"--rw={load.rw}", f"--bs={load.block}", f"--iodepth={load.depth}"),
        *(f"--blockalign={stride}", f"--size={size}", f"--runtime={int(seconds * 1000)}ms"),
        *((f"--io_size={size // stride * load.block}",) if once else ("--time_based", "--norandommap")),
    ]
    said = call(command, cwd=cwd, timeout=seconds + 60, env={**os.environ, **target.environment})
    try:
        job = json.loads(said[said.index("{") :])["jobs"][0]
    except (ValueError, LookupError):
        raise BenchFailed(f"fio gave no result: {said.strip()[:200]}") from None
    return _outcome(job["write" if load.writes else "read"])


def _outcome(side: dict[str, object]) -> Outcome:
    latency = side["clat_ns"] if side["clat_ns"]["N"] else side["lat_ns"]  # type: ignore[index]
    return Outcome(
        iops=float(side["iops"]),  # type: ignore[arg-type]
        bandwidth=float(side["bw_bytes"]),  # type: ignore[arg-type]
        mean_us=latency["mean"] / 1000,  # type: ignore[index]
        max_us=latency["max"] / 1000,  # type: ignore[index]
    )

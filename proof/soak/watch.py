# SPDX-License-Identifier: Apache-2.0
"""What the processes of a home hold: descriptors by kind, and memory."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.fiskds import Fiskd
from tests.supervisors import processes_of

_ROLES = {"fisk_core.daemon": "fiskd", "fisk_core.dataplane.acceptor": "acceptor"}
_OF_FISKS = re.compile(r"/(layers|logs|sums|blobs)/|\.journal")
_PARTICULAR = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|#[0-9]+")
_KEPT_FOR_NOTHING = re.compile(r"/(layers|logs|sums)/|\.journal")
"""whereas a map that is loaded bit by bit needs its blob, and has it, to the end"""
_ZYGOTE = "fisk_core.dataplane.zygote"


@dataclass(frozen=True, slots=True)
class Process:
    """One process: who it is, its resident bytes, and its descriptors by what they are."""

    role: str
    pid: int
    resident: int
    descriptors: Counter[str]
    deleted: list[str] = field(default_factory=list)
    """files with space of the pool that it holds open though they are gone"""


def look(fiskd: Fiskd, workers: dict[int, bool]) -> list[Process]:
    """Look at every process of the home; ``workers`` says of each whether it only reads."""
    return [*_look(fiskd, workers)]


def _look(fiskd: Fiskd, workers: dict[int, bool]) -> Iterator[Process]:
    for pid in processes_of(fiskd.home):
        with suppress(OSError):
            role = _role(pid, workers)
            yield Process(role, pid, _resident(pid), *_descriptors(pid))


def _role(pid: int, workers: dict[int, bool]) -> str:
    if pid in workers:
        return "reader" if workers[pid] else "worker"
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    found = next((_ROLES[word] for word in words if word in _ROLES), None)
    return found or ("zygote" if _ZYGOTE in words else "other")


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def _descriptors(pid: int) -> tuple[Counter[str], list[str]]:
    kinds: Counter[str] = Counter()
    deleted = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(path)
            kinds[_kind(target)] += 1
            if target.endswith(" (deleted)") and _KEPT_FOR_NOTHING.search(target):
                deleted.append(target.removesuffix(" (deleted)"))
    return kinds, deleted


def _kind(target: str) -> str:
    """Say what a descriptor is, without what differs from one process to the next."""
    if target.startswith(("socket:", "pipe:", "anon_inode:")):
        return target.partition(":[")[0]
    of_fisk = _OF_FISKS.search(target)
    return of_fisk.group() if of_fisk else _PARTICULAR.sub("*", target)

# SPDX-License-Identifier: Apache-2.0
"""Files in a directory, written, replaced, renamed and removed in a thread; some of them made durable.

What was durable before a snapshot began must be in it, whole and right: files whose fsync, and that of their
directory, had returned.  A file that is replaced (written beside, fsynced, renamed, the directory fsynced)
has one of the contents it was given since.
"""

import os
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

_REPLACED = 8  # names that are written again and again
_MOST = 600  # files; then the oldest go


def content(name: str, version: int) -> bytes:
    """Give what a file holds: its length differs, and every byte depends on name and version."""
    chance = random.Random(f"{name}:{version}")
    return chance.randbytes(chance.randint(1, 24 << 10))


@dataclass(slots=True)
class Durable:
    """What must be there: names of files that never change, and the least version of those that do."""

    files: set[str] = field(default_factory=set)
    least: dict[str, int] = field(default_factory=dict)


class Population:
    """Writes below ``folder`` until ``stop``."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.written = self.synced = 0
        self.failure: BaseException | None = None
        self._durable = Durable()
        self._removed: set[str] = set()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def durable(self) -> Durable:
        """Give what is durable by now."""
        with self._lock:
            return Durable(set(self._durable.files), dict(self._durable.least))

    def removed(self) -> set[str]:
        """Give what was, or is just being, removed."""
        with self._lock:
            return set(self._removed)

    def _run(self) -> None:
        directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while not self._end.is_set():
                self._one(directory)
        except BaseException as exc:  # told by whoever waits
            self.failure = exc
        finally:
            os.close(directory)

    def _one(self, directory: int) -> None:
        self.written += 1
        kind = self.chance.random()
        if kind < 0.15:
            self._replace(f"r{self.chance.randrange(_REPLACED)}", directory)
            return
        name = f"f{self.written}"
        durable = self.chance.random() < 0.3
        _write(self.folder / name, content(name, 0), durable=durable)
        if durable:
            os.fsync(directory)
            self.synced += 1
            with self._lock:
                self._durable.files.add(name)
        if self.written > _MOST:
            self._remove(f"f{self.written - _MOST}")

    def _remove(self, name: str) -> None:
        with self._lock:
            self._durable.files.discard(name)
            self._removed.add(name)
        (self.folder / name).unlink(missing_ok=True)

    def _replace(self, name: str, directory: int) -> None:
        version = self._durable.least.get(name, 0) + 1
        _write(self.folder / f"{name}.new", content(name, version), durable=True)
        os.rename(self.folder / f"{name}.new", self.folder / name)
        os.fsync(directory)
        self.synced += 1
        with self._lock:
            self._durable.least[name] = version


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        if durable:
            os.fsync(file.fileno())


def verify(folder: Path, before: Durable, removed: set[str], after: Durable) -> tuple[int, list[str]]:
    """Compare files with what was durable before a snapshot, and with what was so after it.

    Gives how many were right, and what is wrong.
    """
    wrong, right = [], 0
    for name in sorted(before.files - removed):
        if _read(folder / name) != content(name, 0):
            wrong.append(f"{name} was durable and is not what was written")
        else:
            right += 1
    for name, least in before.least.items():
        found = _read(folder / name)
        versions = range(least, after.least[name] + 2)
        if found is None or not any(found == content(name, version) for version in versions):
            wrong.append(f"{name} is none of its versions {least} to {versions[-1]}")
        else:
            right += 1
    return right, wrong


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

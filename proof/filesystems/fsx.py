# SPDX-License-Identifier: Apache-2.0
"""Random operations on one file beside the same on bytes in memory: the idea of fsx, made anew.

The file may be anything that has a path.  An operation that the file's system does not know is dropped from
the deck the first time it says so.
"""

import errno
import mmap
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from fisk_core import _linux
from proof.core import ProofFailed

LONGEST = 32 << 10
_LOOK_AGAIN = 1000  # operations after which the whole file is compared
_REMEMBERED = 25
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EXDEV)


class Fsx:
    """One file of at most ``size`` bytes; one that is not ``resizable`` has that many, zeros at first."""

    def __init__(self, path: Path, size: int, chance: random.Random, *, resizable: bool) -> None:
        self.path, self.limit, self.chance, self.resizable = path, size, chance, resizable
        self.model = bytearray(0 if resizable else size)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.counts: Counter[str] = Counter()
        self.operations = 0
        self.unknown: set[str] = set()
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self._deck: list[Callable[[], None]] = [
            *[self.read] * 8, *[self.write] * 8, *[self.map_read] * 4, *[self.map_write] * 4,
            self.punch, self.punch, self.zero, self.zero, self.allocate, self.copy,
        ]  # fmt: skip
        if resizable:
            self._deck += [self.truncate, self.append, self.append]

    def close(self) -> None:
        os.close(self.fd)

    def run(self, more: Callable[[], bool]) -> None:
        """Go on while ``more`` says so, and look at everything in the end."""
        while more():
            for _ in range(16):
                self.one()
        self.compare()

    def one(self) -> None:
        """Do one thing."""
        act = self.chance.choice(self._deck)
        try:
            act()
        except OSError as exc:
            if exc.errno not in _UNKNOWN:
                raise
            self.unknown.add(act.__name__)
            self._deck = [each for each in self._deck if each != act]
            return
        self.counts[act.__name__] += 1
        self.operations += 1
        if self.chance.random() < 0.01:
            os.fsync(self.fd)
            self.counts["fsync"] += 1
        if self.counts.total() % _LOOK_AGAIN == 0:
            self.compare()

    def compare(self) -> None:
        """Read everything, through a descriptor of its own."""
        with self.path.open("rb", buffering=0) as file:
            if file.seek(0, os.SEEK_END) != len(self.model):
                raise self._failed(f"it has {file.seek(0, os.SEEK_END)} bytes instead of {len(self.model)}")
            self._same(0, len(self.model), os.pread(file.fileno(), len(self.model), 0))
        self.counts["compare"] += 1

    def _same(self, offset: int, length: int, found: bytes) -> None:
        if found != self.model[offset : offset + length]:
            at = next((at for at, byte in enumerate(found) if byte != self.model[offset + at]), len(found))
            raise self._failed(f"byte {offset + at} of {length} read at {offset} is wrong")

    def _failed(self, why: str) -> ProofFailed:
        told = "\n  ".join(self._last)
        return ProofFailed(f"{self.path}, operation {self.counts.total()}: {why}; before that\n  {told}")

    def _note(self, what: str, offset: int, length: int, more: str = "") -> None:
        self._last.append(f"{what} {length} at {offset}{more}")

    def _span(self, end: int) -> tuple[int, int]:
        """Choose a range that ends by ``end``: half of them whole blocks."""
        if not end:
            return 0, 0
        offset = self.chance.randrange(end)
        length = min(self.chance.randint(1, LONGEST >> self.chance.randrange(8)), end - offset)
        if self.chance.random() < 0.5:
            offset = offset >> 12 << 12
            length = min(max(4096, length >> 12 << 12), end - offset)
        return offset, length

    # Operations

    def read(self) -> None:
        offset, length = self._span(len(self.model))
        self._note("read", offset, length)
        self._same(offset, length, os.pread(self.fd, length, offset))

    def write(self) -> None:
        """Anywhere, also behind the end of a file that can grow."""
        self._write(*self._span(self.limit if self.resizable else len(self.model)))

    def append(self) -> None:
        end = len(self.model)
        self._write(end, min(self.chance.randint(1, LONGEST), self.limit - end))

    def _write(self, offset: int, length: int) -> None:
        data = self.chance.randbytes(length)
        self._note("write", offset, length)
        done = 0
        while done < length:
            done += os.pwrite(self.fd, data[done:], offset + done)
        self._put(offset, data)

    def _put(self, offset: int, data: bytes) -> None:
        if data and offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def punch(self) -> None:
        offset, length = self._span(len(self.model))
        if length:
            self._note("punch", offset, length)
            _linux.fallocate(
                self.fd, _linux.FALLOC_FL_PUNCH_HOLE | _linux.FALLOC_FL_KEEP_SIZE, offset, length
            )
            self._put(offset, bytes(length))

    def zero(self) -> None:
        offset, length = self._span(len(self.model))
        if length:
            self._note("zero", offset, length)
            _linux.fallocate(
                self.fd, _linux.FALLOC_FL_ZERO_RANGE | _linux.FALLOC_FL_KEEP_SIZE, offset, length
            )
            self._put(offset, bytes(length))

    def allocate(self) -> None:
        """Changes nothing that can be read, whether there was something or not."""
        offset, length = self._span(len(self.model))
        if length:
            self._note("allocate", offset, length)
            _linux.fallocate(self.fd, _linux.FALLOC_FL_KEEP_SIZE, offset, length)

    def map_read(self) -> None:
        offset, length = self._span(len(self.model))
        if length:
            start = offset // mmap.PAGESIZE * mmap.PAGESIZE
            with mmap.mmap(self.fd, offset + length - start, prot=mmap.PROT_READ, offset=start) as mapped:
                self._note("mapread", offset, length)
                self._same(offset, length, mapped[offset - start :])

    def map_write(self) -> None:
        offset, length = self._span(len(self.model))
        if length:
            start = offset // mmap.PAGESIZE * mmap.PAGESIZE
            with mmap.mmap(self.fd, offset + length - start, offset=start) as mapped:
                data = self.chance.randbytes(length)
                self._note("mapwrite", offset, length)
                mapped[offset - start :] = data
            self._put(offset, data)

    def copy(self) -> None:
        """copy_file_range(2) within the file, to where it does not overlap."""
        offset, length = self._span(len(self.model))
        target, _ = self._span(len(self.model))
        length = min(length, len(self.model) - target, abs(target - offset))
        if length:
            self._note("copy", offset, length, f" to {target}")
            done = os.copy_file_range(self.fd, self.fd, length, offset, target)
            self._put(target, bytes(self.model[offset : offset + done]))

    def truncate(self) -> None:
        size = self.chance.randrange(self.limit)
        self._note("truncate", size, 0)
        os.ftruncate(self.fd, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

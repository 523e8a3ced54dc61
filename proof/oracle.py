# SPDX-License-Identifier: Apache-2.0
"""What each block of a Fisk may legally hold: now, and after a power loss at this moment.

A block device is an array of independent registers, so each block has a history of its own.  A change is
*begun* when it is sent and *ended* when it is acknowledged, or *failed* when its caller got an error (or was
killed) instead: then it may have happened or not.  Ends and begins have one order, the order of the calls
made here.  With that, a value

- is legal **now**, unless an acknowledged change began after it had ended;
- is legal **after a power loss**, unless such a change was *durable* besides: acknowledged before a flush
  began that was acknowledged itself, or written with FUA.

So a read that overlaps a write may give either value, an unflushed block any value it was given since the
last flush or the one from before, and a flushed one nothing older.  A change of several blocks is torn at
blocks only.  How to use it, with one caller or with many at once::

    oracle = Oracle(size)
    change = oracle.write(offset, data)  # also zero(), trim(): before the request is sent
    oracle.end(change)                   # or oracle.end(change, fua=True), or oracle.fail(change)
    flush = oracle.flush()               # before the request is sent; one that failed is just forgotten
    oracle.end_flush(flush)
    problems = oracle.compare(disk.read(0, size), crashed=True)

Two changes of parts of one block must not overlap in time, nor may a change and a snapshot, a clone or a
resize: then what the parts end up as depends on more than the block.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 24  # bytes of a value in a message


@dataclass(eq=False, slots=True)
class Change:
    """A change of blocks, from its beginning; ``ended`` is None while it is under way."""

    begun: int
    blocks: range
    ended: int | None = None
    certain: bool = False
    """acknowledged: it has happened"""
    durable: bool = False


@dataclass(eq=False, slots=True)
class Flush:
    """A flush under way: it covers what ended before it began."""

    begun: int


@dataclass(eq=False, slots=True)
class _Given:
    """What a change made of one block: one of ``values`` (several, when what it was laid over is unknown)."""

    change: Change
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A block that holds what it must not."""

    block: int
    found: bytes
    legal: tuple[bytes, ...]

    def __str__(self) -> str:
        legal = ", ".join(_short(each) for each in self.legal)
        return f"block {self.block} holds {_short(self.found)}, and may hold {legal}"


@dataclass(slots=True)
class Oracle:
    """The blocks of one Fisk of ``size`` bytes that begins as ``content`` and zeros, all of it durable."""

    size: int
    block_size: int = 4096
    content: bytearray = field(default_factory=bytearray)
    """what blocks without a history hold for sure"""
    _open: dict[int, list[_Given]] = field(default_factory=dict, repr=False)
    """block → changes that may still be seen, in the order in which they began; the rest is settled"""
    _clock: int = 0

    def __post_init__(self) -> None:
        self.content = bytearray(self.content[: self.size].ljust(self.size, b"\0"))

    # Changes

    def write(self, offset: int, data: bytes) -> Change:
        """``data`` is about to be written at ``offset``, of any alignment."""
        size = self.block_size
        blocks = range(offset // size, -(-(offset + len(data)) // size))
        change = Change(self._tick(), blocks)
        for block in blocks:
            start = block * size
            first, last = max(offset, start), min(offset + len(data), start + size, self.size)
            part = data[first - offset : last - offset]
            self._give(block, change, first - start, part)
        return change

    def zero(self, offset: int, length: int) -> Change:
        """The range is about to be made read as zeros."""
        return self.write(offset, bytes(length))

    def trim(self, offset: int, length: int) -> Change:
        """The whole blocks inside the range are about to be forgotten: they read as zeros."""
        size, end = self.block_size, offset + length
        first = -(-offset // size) * size
        last = end if end == self.size else end // size * size
        return self.write(first, bytes(max(0, last - first)))

    def end(self, change: Change, *, fua: bool = False) -> None:
        """The change was acknowledged; ``fua``: it is durable."""
        change.ended, change.certain = self._tick(), True
        if fua:
            change.durable = True
            self._settle(change.blocks)

    def fail(self, change: Change) -> None:
        """The change ended without an acknowledgement: it has happened or not, and will not happen later."""
        change.ended = self._tick()

    def flush(self) -> Flush:
        """A flush is about to be sent."""
        return Flush(self._tick())

    def end_flush(self, flush: Flush) -> None:
        """The flush was acknowledged."""
        for history in self._open.values():
            for given in history:
                change = given.change
                if change.certain and change.ended is not None and change.ended < flush.begun:
                    change.durable = True
        self._settle(list(self._open))

    # The Fisk as a whole

    def resize(self, size: int) -> None:
        """It has another size now: what is behind the end is lost, and what is new reads as zeros."""
        if size < self.size:
            first = size // self.block_size
            for block in [each for each in self._open if each >= first]:
                self._open[block] = [self._cut(given, block, size) for given in self._open[block]]
                if block * self.block_size >= size:
                    del self._open[block]
        elif tail := self.size % self.block_size:
            for given in self._open.get(self.size // self.block_size, ()):
                whole = min(self.block_size, tail + size - self.size)
                given.values = tuple(value.ljust(whole, b"\0") for value in given.values)
        self.content = self.content[:size].ljust(size, b"\0")
        self.size = size

    def copy(self) -> "Oracle":
        """Give what a snapshot or clone of this moment holds for good; no change is under way."""
        other = Oracle(self.size, self.block_size, self.content)
        for block in self._open:
            other._fix(block, tuple(self.legal(block, crashed=False)))
        return other

    def twin(self) -> "Oracle":
        """Give the same once more, with what is not durable and what is under way."""
        other = Oracle(self.size, self.block_size, self.content)
        other._clock = self._clock
        same: dict[int, Change] = {}
        for block, history in self._open.items():
            other._open[block] = [
                _Given(same.setdefault(id(given.change), _again(given.change)), given.values)
                for given in history
            ]
        return other

    def restart(self, found: bytes, *, durable: bool = True) -> None:
        """All there was is over, and ``found`` is what was left: after a crash, when nothing is under way.

        ``durable`` says whether it is on the medium: yes after a power loss, no after a kill.
        """
        if durable:
            self._open.clear()
            self.content[:] = found
            return
        for block in list(self._open):
            value = self._of(found, block)
            change = Change(self._tick(), range(block, block + 1), certain=True)
            change.ended = self._tick()
            self._open[block].append(_Given(change, (value,)))

    # Looking

    def legal(self, block: int, *, crashed: bool) -> Iterable[bytes]:
        """Give the values that a block may hold: now, or after a power loss now."""
        history = self._open.get(block)
        if history is None:
            return [self._of(self.content, block)]
        found = dict.fromkeys(
            value
            for given in history
            if not _is_superseded(given, history, durable=crashed)
            for value in given.values
        )
        return list(found)

    def compare(self, found: bytes, *, crashed: bool, sector: int | None = None) -> list[Mismatch]:
        """Give the blocks of a whole Fisk as read that hold what they must not; ``found`` has its size.

        ``sector``: the medium writes no more than so many bytes as a whole, so that each part of a block has
        a legal value of its own.
        """
        assert len(found) == self.size, f"{len(found)} bytes of {self.size}"
        wrong = [block for block in self._open if not self._is_legal(found, block, crashed, sector)]
        if found != self.content:
            others = bytearray(found)
            for block in self._open:
                start, end = block * self.block_size, (block + 1) * self.block_size
                others[start:end] = self.content[start:end]
            wrong += self._differing(others)
        return [
            Mismatch(block, self._of(found, block), tuple(self.legal(block, crashed=crashed)))
            for block in sorted(wrong)
        ]

    def _is_legal(self, found: bytes, block: int, crashed: bool, sector: int | None) -> bool:
        value, legal = self._of(found, block), self.legal(block, crashed=crashed)
        if value in legal:
            return True
        if sector is None or sector >= self.block_size:
            return False
        return all(
            value[at : at + sector] in {each[at : at + sector] for each in legal}
            for at in range(0, len(value), sector)
        )

    def _differing(self, found: bytes | bytearray) -> Iterable[int]:
        count = -(-self.size // self.block_size)
        return (block for block in range(count) if self._of(found, block) != self._of(self.content, block))

    # Histories

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _of(self, content: bytes | bytearray, block: int) -> bytes:
        return bytes(content[block * self.block_size : (block + 1) * self.block_size])

    def _give(self, block: int, change: Change, at: int, part: bytes) -> None:
        """Add what ``part``, ``at`` so many bytes into the block, makes of it."""
        history = self._open.setdefault(block, [])
        if not history:
            history.append(_Given(_long_ago(block), (self._of(self.content, block),)))
        below = self.legal(block, crashed=False)
        values = dict.fromkeys(each[:at] + part + each[at + len(part) :] for each in below)
        history.append(_Given(change, tuple(values)))

    def _fix(self, block: int, values: tuple[bytes, ...]) -> None:
        """Have the block hold one of ``values``, for good."""
        if len(values) == 1:
            self._open.pop(block, None)
            start = block * self.block_size
            self.content[start : start + len(values[0])] = values[0]
        else:
            self._open[block] = [_Given(_long_ago(block), values)]

    def _settle(self, blocks: Iterable[int]) -> None:
        """Forget what cannot be seen any more."""
        for block in blocks:
            history = self._open.get(block)
            if history is None:
                continue
            left = [given for given in history if not _is_superseded(given, history, durable=True)]
            self._open[block] = left
            if len(left) == 1 and left[0].change.durable:
                self._fix(block, left[0].values)

    def _cut(self, given: _Given, block: int, size: int) -> _Given:
        keep = max(0, size - block * self.block_size)
        return _Given(given.change, tuple(dict.fromkeys(value[:keep] for value in given.values)))


def _is_superseded(given: _Given, history: list[_Given], *, durable: bool) -> bool:
    """Whether an acknowledged (and durable) change of the block began after this one had ended."""
    ended = given.change.ended
    return ended is not None and any(
        other.change.begun > ended and other.change.certain and (other.change.durable or not durable)
        for other in history
    )


def _long_ago(block: int) -> Change:
    return Change(0, range(block, block + 1), ended=0, certain=True, durable=True)


def _again(change: Change) -> Change:
    return Change(change.begun, change.blocks, change.ended, change.certain, change.durable)


def _short(value: bytes) -> str:
    if not any(value):
        return "zeros"
    return value[:_SHOWN].hex() + ("…" if len(value) > _SHOWN else "")

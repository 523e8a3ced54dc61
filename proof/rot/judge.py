# SPDX-License-Identifier: Apache-2.0
"""Whether damage was noticed and named, or did no harm; anything else is a broken promise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fisk_core.dataplane.disk import Disk
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.pools.base import Pool
from proof.core import ProofFailed
from proof.rot import damage
from proof.rot.specimen import View

_PIECE = 5 * 1024 + 512


@dataclass
class Tally:
    """What was done and what came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes_compared: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.counts.update(other.counts)
        self.bytes_compared += other.bytes_compared
        self.broken += other.broken


@contextmanager
def damaged(path: Path, data: bytes | None) -> Iterator[None]:
    """Put other content into a file, None: no file, and afterwards what it held.

    In place, as rot does it: who has the file open sees it.
    """
    before = path.read_bytes()
    try:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


def case_of(path: Path, others: Sequence[Path], older: Sequence[bytes]) -> damage.Case:
    """Give a file as :func:`damage.choose` wants it."""
    data = path.read_bytes()
    contents = tuple(other.read_bytes() for other in others if other != path)
    return damage.Case(data, contents, tuple(each for each in older if each != data))


class Judge:
    """Reads Fisks under damage."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def read(self, pool: Pool, view: View) -> FiskError | None:
        """Read all of a Fisk; gives what was raised first.  Raises ProofFailed for wrong bytes."""
        try:
            disk = Disk.open(pool, view.spec)
        except FiskError as exc:
            return exc
        with disk:
            return self.compare(disk, view)

    def compare(self, disk: Disk, view: View) -> FiskError | None:
        """The same for an open disk: all of it at once, and in pieces what cannot be read so."""
        raised: FiskError | None = None
        try:
            self.same(disk.read(0, len(view.content)), view.content, view.name)
            return None
        except FiskError as exc:
            raised = exc
        for at in range(0, len(view.content), _PIECE):
            wanted = view.content[at : at + _PIECE]
            try:
                found = disk.read(at, len(wanted))
            except FiskError:
                continue
            self.same(found, wanted, f"{view.name} at {at}")
        return raised

    def same(self, found: bytes, wanted: bytes, where: str) -> None:
        """Compare what was served as good."""
        self.tally.bytes_compared += len(wanted)
        if found != wanted:
            wrong = sum(a != b for a, b in zip(found, wanted, strict=True))
            self.tally.counts["wrong bytes"] += wrong
            raise ProofFailed(f"{wrong} wrong bytes were served as good: {where}")

    def named(self, raised: FiskError, names: Sequence[str]) -> None:
        """Raise ProofFailed when an error does not say what is damaged."""
        if not any(name in str(raised) for name in names):
            raise ProofFailed(f"{type(raised).__name__} names none of {', '.join(names)}: {raised}")


def problems(engine: Engine) -> list[str]:
    """Give what ``fisk check`` finds."""
    return [f"{each.kind} {each.subject}: {each.message}" for each in engine.check().problems]


def describe(chance_parts: Sequence[object], path: Path, what: str) -> str:
    """Say which damage it was."""
    return f"{'/'.join(path.parts[-3:])}: {what} (trial {':'.join(map(str, chance_parts))})"


def chance_of(seed: int, *parts: object) -> Random:
    """Give the generator of one trial."""
    return Random(":".join(map(str, (seed, *parts))))

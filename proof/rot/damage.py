# SPDX-License-Identifier: Apache-2.0
"""What may happen to a file while nobody looks: each kind of damage gives new content, None for no file."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

SECTOR, PAGE = 512, 4096


@dataclass(frozen=True)
class Case:
    """A file as it is, other files of its kind, and what it was before, where it was something else."""

    data: bytes
    others: tuple[bytes, ...] = ()
    older: tuple[bytes, ...] = ()


Damage = Callable[[Random, Case], tuple[str, bytes | None]]
"""gives what was done, and what the file holds then"""


def flip(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """One bit."""
    data = bytearray(case.data)
    if not data:
        return "nothing", b""
    position, bit = chance.randrange(len(data)), chance.randrange(8)
    data[position] ^= 1 << bit
    return f"bit {bit} of byte {position} flipped", bytes(data)


def truncate(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """The end is gone: anywhere, or at a sector."""
    length = chance.randrange(len(case.data) + 1)
    length -= chance.choice((0, length % SECTOR))
    return f"cut to {length} bytes", case.data[:length]


def _over(case: Case, size: int, chance: Random) -> int:
    return size * chance.randrange(-(-len(case.data) // size) or 1)


def zero(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """A sector or a page reads as zeros."""
    size = chance.choice((SECTOR, PAGE))
    at = _over(case, size, chance)
    part = bytes(len(case.data[at : at + size]))
    return f"{size} bytes at {at} zeroed", case.data[:at] + part + case.data[at + size :]


def duplicate(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """A sector or a page lies at a second place, too."""
    size = chance.choice((SECTOR, PAGE))
    source, at = _over(case, size, chance), _over(case, size, chance)
    part = case.data[source : source + size]
    return f"{size} bytes of {source} also at {at}", case.data[:at] + part + case.data[at + len(part) :]


def swap(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """Another file of the kind is in its place: every checksum is right, and all of it is wrong."""
    return "another's content", chance.choice(case.others or (case.data,))


def older(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """What it held once."""
    return "an older content", chance.choice(case.older or (case.data,))


def lose(chance: Random, case: Case) -> tuple[str, bytes | None]:
    """It is gone."""
    return "removed", None


KINDS: tuple[tuple[Damage, int], ...] = (
    (flip, 60),
    (truncate, 8),
    (zero, 10),
    (duplicate, 8),
    (swap, 6),
    (older, 6),
    (lose, 2),
)
"""with how often each is chosen"""


def choose(chance: Random, case: Case) -> tuple[str, str, bytes | None]:
    """Damage a file in some way that changes it; gives the kind, what was done, and the content."""
    damages, weights = zip(*KINDS, strict=True)
    while True:
        (damage,) = chance.choices(damages, weights)
        what, data = damage(chance, case)
        if data != case.data:
            return damage.__name__, what, data

# SPDX-License-Identifier: Apache-2.0
"""What every proof is made of: a name, a share of the time, and the figures it must reach."""

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class ProofFailed(Exception):
    """A promise was broken; says which, and how to see it again."""


@dataclass(frozen=True)
class Figure:
    """One counted result: ``value``, what it ``must`` be for people, whether it is, and if not ``why``."""

    name: str
    value: int | float | str
    must: str = ""
    met: bool = True
    why: str = ""


def at_least(name: str, value: float, least: float) -> Figure:
    """A figure that must be ``least`` or more."""
    return Figure(name, value, f">= {least:,}", value >= least)


def at_most(name: str, value: float, most: float, why: str = "") -> Figure:
    """A figure that must be ``most`` or less; ``why`` says more of one that is not."""
    return Figure(name, value, f"<= {most:,}", value <= most, why)


def exactly(name: str, value: int | str, wanted: int | str) -> Figure:
    """A figure that must be ``wanted``."""
    return Figure(name, value, f"{wanted}", value == wanted)


@dataclass
class Context:
    """Where a proof works, for how long, and from which seed; ``scratch`` is short, for it holds sockets."""

    scratch: Path
    seconds: float
    seed: int
    processes: int
    say: Callable[[str], None] = field(repr=False)

    def random(self, *parts: object) -> random.Random:
        """Give a generator of its own for ``parts``, the same for the same seed."""
        return random.Random(":".join(map(str, (self.seed, *parts))))


Run = Callable[[Context], list[Figure]]


@dataclass(frozen=True)
class Proof:
    """A proof as filed: ``seconds`` is its share of the time of ``make proof``."""

    name: str
    title: str
    seconds: float
    run: Run


PROOFS: dict[str, Proof] = {}
"""in the order in which they run"""


def proof(name: str, title: str, *, seconds: float) -> Callable[[Run], Run]:
    """File a function as the proof ``name``; it raises ProofFailed or gives its figures."""

    def add(run: Run) -> Run:
        PROOFS[name] = Proof(name, title, seconds, run)
        return run

    return add


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory with a short path, in memory where there is one: what is cut there need not be durable."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fp-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)

# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.inside ORDER``: fuzz every surface in this process for some time.

With atheris (libFuzzer for Python) new inputs are those that reach new code of the data path; without it a
mutator that knows nothing makes them from the same seeds.  ORDER and the report are JSON files.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proof.hostile.surfaces import Surfaces

MAX_INPUT = 400
LONGER = 4
WARM = 3000
"""inputs after which memory and descriptors are looked at for the first time"""
_LOOK_EVERY = 256


@dataclass
class Order:
    """What to do: ``home`` is an empty directory, ``seeds`` hold one input a file."""

    seconds: float
    seed: int
    home: str
    seeds: str
    report: str
    least: int = 0
    """how much is to be done, also where that takes longer, up to LONGER times ``seconds``"""
    guided: bool = True

    def clock(self) -> Callable[[int], bool]:
        """Begin; what it gives says whether to go on, told how much is done."""
        began = time.monotonic()

        def go_on(done: int) -> bool:
            taken = time.monotonic() - began
            return taken < self.seconds or (done < self.least and taken < LONGER * self.seconds)

        return go_on


@dataclass
class Report:
    """What came of it; ``broken`` says what was wrong with ``input`` (hexadecimal)."""

    inputs: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    guided: bool = False
    grown: int = 0
    """bytes of memory"""
    descriptors: int = 0
    """open at the end that were not after the first inputs"""
    broken: str = ""
    input: str = ""


class Session:
    """Feeds inputs until the time is over, and then ends the process: libFuzzer never returns."""

    def __init__(self, order: Order, surfaces: "Surfaces", finish: Callable[[], None]) -> None:
        from proof.hostile import target

        self._target, self._order, self._surfaces, self._finish = target, order, surfaces, finish
        self._go_on = order.clock()
        self._report = Report()
        self._before = (0, 0)
        self._most = 0

    def one(self, data: bytes) -> None:
        """Run one input; anything it breaks is reported and ends the process."""
        report = self._report
        try:
            self._surfaces.run(data)
        except BaseException as exc:  # whatever it is, it would have ended a worker
            report.broken, report.input = f"{type(exc).__name__}: {exc}", data.hex()
            self.end(1)
        report.inputs += 1
        if report.inputs == WARM:
            self._before = self._target.resident(), self._target.descriptors()
        if not report.inputs % _LOOK_EVERY:
            self._most = max(self._most, self._target.resident())
            if not self._go_on(report.inputs):
                self._measure()
                try:
                    self._finish()
                except Exception as exc:  # the sentinel was changed, or an end that does not work
                    report.broken = f"{type(exc).__name__}: {exc}"
                self.end(1 if report.broken else 0)

    def _measure(self) -> None:
        memory, files = self._before
        if memory:
            self._report.grown = max(0, self._most - memory)
            self._report.descriptors = self._target.descriptors() - files

    def end(self, status: int) -> None:
        """Write the report and go."""
        self._report.counts = dict(self._surfaces.counts)
        self._report.guided = self._order.guided
        Path(self._order.report).write_text(json.dumps(asdict(self._report)))
        sys.stdout.flush()
        os._exit(status)


def end_in_order() -> None:
    """Have SIGTERM unwind: what was started is ended."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Give an input made from one or two seeds, or from nothing."""
    data = bytearray(
        chance.choice(seeds) if chance.random() < 0.7 else chance.randbytes(chance.randrange(60))
    )
    if chance.random() < 0.3:
        other = chance.choice(seeds)
        cut = chance.randrange(len(data) + 1)
        data[cut:] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, what = chance.randrange(len(data) + 1), chance.randrange(4)
        if what == 0:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif what == 1:
            del data[at : at + chance.randrange(1, 9)]
        elif what == 2 and at < len(data):
            data[at] = chance.randrange(256)
        else:
            data[at:at] = data[chance.randrange(len(data) + 1) :][: chance.randrange(1, 20)]
    return bytes(data[:MAX_INPUT])


def seeds_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())] or [b""]


def _mutating(session: Session, order: Order) -> None:
    seeds, chance = seeds_in(Path(order.seeds)), random.Random(order.seed)
    for seed in seeds:
        session.one(seed)
    while True:
        session.one(mutate(seeds, chance))


def _guided(atheris: Any, session: Session, order: Order) -> None:
    words = [sys.argv[0], order.seeds, f"-seed={order.seed + 1}", f"-max_len={MAX_INPUT}", "-rss_limit_mb=0",
             "-timeout=60", "-verbosity=0", f"-artifact_prefix={order.home}/"]  # fmt: skip
    atheris.Setup(words, session.one)
    atheris.Fuzz()


def leave(context: AbstractContextManager[Any]) -> None:
    """End what was begun with ``__enter__``."""
    context.__exit__(None, None, None)


def _atheris(order: Order) -> Any:
    """Give the module, None where it is not to be had."""
    if not order.guided:
        return None
    try:
        import atheris
    except ImportError:
        return None
    return atheris


def main() -> None:
    """Do what the order says."""
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    atheris = _atheris(order)
    order.guided = atheris is not None
    if atheris is not None:
        with atheris.instrument_imports(include=["fisk_core.dataplane"]):
            from proof.hostile.surfaces import surfaces
    else:
        from proof.hostile.surfaces import surfaces
    context = surfaces(Path(order.home))
    session = Session(order, context.__enter__(), lambda: leave(context))
    if atheris is None:
        _mutating(session, order)
    else:
        _guided(atheris, session, order)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A recording, cut as often as there is time for."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proof.power.cuts import Moment, choices, left, moments
from proof.power.judge import Broken, Judge, Problems
from proof.power.records import Record
from proof.power.replay import Cut, save

_PHASES = 7
"""Cuts are spread over a recording this many times, so that all of it is seen when time is short."""
_DEEP = 40
"""one of so many cuts is used further"""
_SOME = 4
_ENOUGH = 5
"""failures after which a recording is given up"""


@dataclass(slots=True)
class Failure:
    """A cut that broke a promise, and the replay that shows it again."""

    cut: Cut
    replay: Path | None
    problems: Problems

    def __str__(self) -> str:
        where = f"python -m proof.power {self.replay}" if self.replay else ""
        after = f"{self.cut.recording}, after {self.cut.position} records, {self.cut.choice}"
        return "\n".join((after, *(f"  {each}" for each in self.problems), f"  see it again: {where}"))


@dataclass(slots=True)
class Tally:
    """What was tried."""

    recordings: int = 0
    records: int = 0
    cuts: int = 0
    deep: int = 0
    fisks: int = 0
    blocks: int = 0
    failures: list[Failure] = field(default_factory=list)

    def broke(self, kind: Broken) -> int:
        """Give how many cuts broke a promise of that kind."""
        return sum(any(each.kind is kind for each in failure.problems) for failure in self.failures)

    def add(self, other: "Tally") -> None:
        for name in ("recordings", "records", "cuts", "deep", "fisks", "blocks", "failures"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Trial:
    """One recording and the place it was made at."""

    def __init__(self, recording: str, records: Sequence[Record], root: Path, replays: Path | None) -> None:
        self._recording, self._records, self._root, self._replays = recording, records, root, replays
        self._judge = Judge(root)
        self._seen: set[tuple[int, int]] = set()
        self.tally = Tally(1, len(records))

    def run(self, go_on: Callable[[], bool]) -> Tally:
        """Cut until all was tried or ``go_on``, asked after each, says no; no state is looked at twice."""
        for phase in range(_PHASES):
            for number, now in enumerate(moments(self._records)):
                if number % _PHASES != phase:
                    continue
                pick = random.Random(f"{self._recording}:{now.position}")
                for choice in choices(now, _SOME, pick):
                    key = left(now.medium, choice).key(), now.promises.version
                    if key in self._seen:
                        continue
                    self._seen.add(key)
                    deep = len(self._seen) % _DEEP == 0
                    args = now.position, choice.name, choice.unit, deep
                    self._try(Cut(str(self._root), self._recording, *args), now)
                    if not go_on() or len(self.tally.failures) >= _ENOUGH:
                        return self.tally
        return self.tally

    def _try(self, cut: Cut, now: Moment) -> None:
        verdict = cut.judge(self._judge, now)
        self.tally.cuts += 1
        self.tally.deep += cut.deep
        self.tally.fisks += verdict.fisks
        self.tally.blocks += verdict.blocks
        if verdict.problems:
            self.tally.failures.append(Failure(cut, self._keep(cut), verdict.problems))

    def _keep(self, cut: Cut) -> Path | None:
        if self._replays is None:
            return None
        name = "".join(
            each if each.isalnum() else "-" for each in f"{cut.recording}-{cut.position}-{cut.choice}"
        )
        path = self._replays / f"{name}.replay"
        save(path, cut, self._records)
        return path

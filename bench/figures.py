# SPDX-License-Identifier: Apache-2.0
"""Figures: samples taken in turns, ratios of what was measured side by side, and what is asked of them."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Must:
    """What a figure must be: ``at_least`` or at most ``limit``, in ``unit`` (``"x"`` for a ratio)."""

    limit: float
    unit: str = "x"
    at_least: bool = True

    def met(self, value: float) -> bool:
        """Tell whether ``value`` is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {show(self.limit, self.unit)}"


def at_least(limit: float, unit: str = "x") -> Must:
    """Ask for ``limit`` or more."""
    return Must(limit, unit)


def at_most(limit: float, unit: str = "x") -> Must:
    """Ask for ``limit`` or less."""
    return Must(limit, unit, at_least=False)


@dataclass(frozen=True)
class Value:
    """The smallest and the largest sample; ``main`` is their median unless a row says otherwise."""

    main: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> "Value":
        """Summarise ``samples``."""
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclass(frozen=True)
class Figure:
    """One line of the report.  ``value`` is None when it was not measured; ``note`` then says why."""

    row: str
    what: str
    against: str = ""
    value: Value | None = None
    must: Must | None = None
    unit: str = "x"
    detail: str = ""
    note: str = ""
    samples: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Give ``pass``, ``MISS``, ``skipped`` or, where nothing was asked, ``report``."""
        if self.value is None:
            return "skipped"
        if self.must is None:
            return "report"
        return "pass" if self.must.met(self.value.main) else "MISS"


class Samples:
    """Numbers of several contestants, one from each in every round."""

    def __init__(self, unit: str, taken: Mapping[str, list[float]]) -> None:
        self.unit = unit
        self.taken = taken

    def ratio(self, ours: str, theirs: str) -> Value:
        """Give ours : theirs, round by round: both sides of one round saw the same noise."""
        return Value.of([a / b for a, b in zip(self.taken[ours], self.taken[theirs], strict=True)])

    def detail(self, ours: str, theirs: str) -> str:
        """Give both medians for people."""
        left, right = (show(statistics.median(self.taken[name]), self.unit) for name in (ours, theirs))
        return f"{left} : {right}"

    def compare(
        self, row: str, what: str, ours: str, theirs: str, must: Must | None, note: str = ""
    ) -> Figure:
        """Give the line that sets ``ours`` against ``theirs``."""
        return Figure(
            row=row,
            what=what,
            against=theirs,
            value=self.ratio(ours, theirs),
            must=must,
            detail=self.detail(ours, theirs),
            note=note,
            samples={name: self.taken[name] for name in (ours, theirs)},
        )


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> Samples:
    """Measure A B C, A B C, …: every other round backwards, so that none always follows the same one."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            taken[name].append(contestants[name]())
        order.reverse()
    return Samples(unit, taken)


_FACTORS = {"IOPS": (1e3, "k IOPS", 1), "B/s": (1e6, "MB/s", 0), "us": (1, "µs", 1)}


def show(value: float, unit: str) -> str:
    """Give ``value`` for people: ``1.53x``, ``162.0 k IOPS``, ``2.4 ms``."""
    if unit == "x":
        return f"{value:.2f}x"
    factor, name, digits = _FACTORS.get(unit, (1, unit, 2 if abs(value) < 10 else 1))
    return f"{value / factor:.{digits}f} {name}".strip()

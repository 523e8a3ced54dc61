# SPDX-License-Identifier: Apache-2.0
"""Whether a snapshot holds one moment: of every cell, and of every Fisk of a group.

The snapshot read all cells at one time *t* between its request and its reply.  For each cell, what it holds
says something of *t*: clusters that come before the one it saw were over (*t* is after their last request),
those that come after had not been answered (*t* is before their first reply).  One cluster comes before
another if some operation of it was answered before one of the other was asked for.  If the latest of the
lower bounds is after the earliest of the upper bounds, no such moment exists: the snapshot has a change
without one that was acknowledged before that change was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from proof.concurrency import linear
from proof.concurrency.cells import STAMP, tell
from proof.concurrency.history import READ, WRITE, History, Ints
from proof.concurrency.linear import VERSION, Clusters, Restored, overwritten_at

Chosen = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cut:
    """What one disk held at a moment between the two: the value of each cell, -2 beyond the end.

    ``writes``: it was given to the disk (a revert) rather than taken from it.
    """

    name: str
    disk: int
    invoked: int
    returned: int
    values: Ints
    writes: bool = False

    def reads(self) -> History:
        """Give the cut as a read of every cell."""
        cells = np.flatnonzero(self.values > -2).astype(np.int64)
        ones = np.ones(len(cells), np.int64)
        return History(
            cells, self.values[cells], ones * self.invoked, ones * self.returned, ones * READ, ones * 0,
            np.zeros((0, 2), np.int64),
        )  # fmt: skip

    def since(self, began: int) -> "Cut":
        """Give the same with times that count from a moment."""
        return replace(self, invoked=self.invoked - began, returned=self.returned - began)


@dataclass(frozen=True, slots=True)
class _Bound:
    time: int
    why: str


def check(cuts: Sequence[Cut], tables: Sequence[Clusters]) -> str | None:
    """Judge cuts that were made at one moment; ``tables`` are the clusters of every disk, by its number.

    Gives what is wrong.  The cuts themselves are among the operations in the tables.
    """
    earliest = [_Bound(max(cut.invoked for cut in cuts), "it was asked for")]
    latest = [_Bound(min(cut.returned for cut in cuts), "it was answered")]
    for cut in cuts:
        low, high = _bounds(cut, tables[cut.disk])
        earliest += low
        latest += high
    low_bound = max(earliest, key=lambda bound: bound.time)
    high_bound = min(latest, key=lambda bound: bound.time)
    if low_bound.time <= high_bound.time:
        return None
    return f"{cuts[0].name} is not of one moment: after {low_bound.why}, but before {high_bound.why}"


def _bounds(cut: Cut, table: Clusters) -> tuple[list[_Bound], list[_Bound]]:
    own = (table.value == cut.values[table.cell]) & (table.value > 0)
    first, last = (np.full(len(cut.values), -1, np.int64) for _ in range(2))
    first[table.cell[own]], last[table.cell[own]] = table.first[own], table.last[own]
    known = ~own & (last[table.cell] >= 0)
    before = known & (table.first < last[table.cell])
    after = known & ~before & (first[table.cell] < table.last)
    low, high = _latest(cut, table, before, table.last), _earliest(cut, table, after, table.first)
    if cut.writes:
        high += _earliest(cut, table, own, table.first)
    else:
        low += _latest(cut, table, own, table.written)
    return low, high


def _latest(cut: Cut, table: Clusters, chosen: Chosen, times: Ints) -> list[_Bound]:
    return [_bound(cut, table, int(np.where(chosen, times, -1).argmax()), times)] if chosen.any() else []


def _earliest(cut: Cut, table: Clusters, chosen: Chosen, times: Ints) -> list[_Bound]:
    return [_bound(cut, table, int(np.where(chosen, times, 1 << 62).argmin()), times)] if chosen.any() else []


def _bound(cut: Cut, table: Clusters, at: int, times: Ints) -> _Bound:
    what = f"{tell(int(table.value[at]))} in cell {table.cell[at]} of disk {cut.disk} at {times[at]}"
    return _Bound(int(times[at]), what)


def versioned(cut: Cut, reverts: list[Restored]) -> Cut:
    """Give the cut with the identities that the reverts before it gave to values."""
    rows = linear.versioned(cut.reads(), reverts)
    rows = rows.where(rows.kind == READ)
    values = np.full(len(cut.values), -2, np.int64)
    values[rows.cell] = rows.value
    return replace(cut, values=values)


def restoring(cut: Cut, number: int) -> Cut:
    """Give the revert of that number with the identities that it gave to values."""
    return replace(cut, values=np.where(cut.values > 0, cut.values | number << VERSION, cut.values))


def check_flushed(cut: Cut, history: History) -> list[str]:
    """Judge what was left when unflushed changes were lost: nothing older than what was flushed.

    ``history`` has no later operation, and begins with zeros (see ``linear.begun``).
    """
    last_flush = int(history.flushes[:, 0].max(initial=-1))
    covered = (history.kind == WRITE) & ((history.returned < last_flush) | (history.durable > 0))
    cells = np.flatnonzero(cut.values > -2).astype(np.int64)
    needed = overwritten_at(history.where(covered), cells, np.full(len(cells), cut.returned, np.int64))
    given = (history.kind != READ) & (history.value & STAMP == cut.values[history.cell])
    lasted = np.full(len(cut.values), -2, np.int64)
    np.maximum.at(lasted, history.cell[given], history.returned[given])
    return [
        f"{cut.name}: cell {cell} of disk {cut.disk} holds {tell(int(cut.values[cell]))}, over since "
        f"{lasted[cell]}; a change that began at {needed[at]} was flushed"
        for at, cell in enumerate(cells)
        if lasted[cell] < needed[at]
    ]

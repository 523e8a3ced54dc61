# SPDX-License-Identifier: Apache-2.0
"""Whether each cell behaved as one register: every operation at one moment between request and reply.

A disk is an array of independent registers, so each cell is judged alone.  Every write has a value of its
own, so a read says which write it saw.  A write and the reads that saw it are a *cluster*; let ``first`` be
the earliest reply among them and ``last`` the latest request.  In any order that explains what was seen, the
operations of a cluster follow one another, without another write between.  Hence (Gibbons and Korach, 1997) a
register's history can be explained if and only if

1. no read was answered before the write it saw was asked for;
2. no two clusters hold the register at the same time: where ``first < last``, the register had that value
   from ``first`` to ``last``, and these spans do not overlap;
3. no cluster lies inside such a span of another one.

That takes one sort.  Zeros are no value of their own (trims, zero requests, the beginning): each change to
and each read of zeros counts as a cluster by itself, which rule 3 applies to; and a read of zeros needs a
change to zeros that was not surely overwritten before the read began.  A revert gives a second write of the
same value; reads after it belong to that one, reads beside it to neither.
"""

from dataclasses import dataclass, replace

import numpy as np

from proof.concurrency.cells import tell
from proof.concurrency.history import MAYBE, READ, WRITE, History, Ints

_TIME_BITS = 44  # nanoseconds: almost five hours
VERSION = 56
NEVER = np.int64(-1)


@dataclass(frozen=True, slots=True)
class Restored:
    """A revert: between the two moments each cell got the value it has in ``values`` (-2: none)."""

    invoked: int
    returned: int
    values: Ints


@dataclass(frozen=True, slots=True)
class Clusters:
    """All clusters but those of zeros, by (cell, first); equally long columns."""

    cell: Ints
    value: Ints
    written: Ints
    first: Ints
    last: Ints


def versioned(history: History, reverts: "list[Restored]") -> History:
    """Give each revert's values an identity of their own, and the reads after it that of what they saw."""
    value, keep = history.value.copy(), np.ones(len(history), bool)
    parts = []
    for number, revert in enumerate(reverts, 1):
        given = revert.values[history.cell]
        same = (given == history.value) & (history.value > 0) & (history.kind == READ)
        after = same & (history.invoked >= revert.returned)
        keep &= ~(same & ~after & (history.returned > revert.invoked))
        value[after] = history.value[after] | number << VERSION
        cells = np.arange(len(revert.values), dtype=np.int64)
        written = np.where(revert.values > 0, revert.values | number << VERSION, 0)
        ones = np.ones(len(cells), np.int64)
        invoked, returned = ones * revert.invoked, ones * revert.returned
        parts.append(History(cells, written, invoked, returned, ones * WRITE, ones, history.flushes[:0]))
    return History.joined([replace(history, value=value).where(keep), *parts])


def begun(history: History, cells: int) -> History:
    """Add what was there before everything: zeros."""
    ones = np.ones(cells, np.int64)
    first = History(
        np.arange(cells, dtype=np.int64), ones * 0, ones * NEVER, ones * NEVER, ones * WRITE, ones,
        history.flushes[:0],
    )  # fmt: skip
    return History.joined([first, history])


def clusters(history: History) -> tuple[Clusters, list[str]]:
    """Give the clusters, and what breaks the first rule."""
    order = np.lexsort((history.value, history.cell))
    history = history.where(order[history.value[order] > 0])
    if not len(history):
        empty = np.zeros(0, np.int64)
        return Clusters(empty, empty, empty, empty, empty), []
    new = np.ones(len(history), bool)
    new[1:] = (history.cell[1:] != history.cell[:-1]) | (history.value[1:] != history.value[:-1])
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(history)))
    is_write = history.kind != READ
    written = np.minimum.reduceat(np.where(is_write, history.invoked, 1 << 62), starts)
    found = Clusters(
        history.cell[starts],
        history.value[starts],
        written,
        np.minimum.reduceat(history.returned, starts),
        np.maximum.reduceat(history.invoked, starts),
    )
    problems = [
        f"cell {history.cell[at]}: {tell(int(history.value[at]))} was read before it was written"
        for at in np.flatnonzero((history.returned < np.repeat(written, sizes)) & ~is_write)
    ]
    reads = np.add.reduceat((~is_write).astype(np.int64), starts)
    certain = np.logical_or.reduceat(history.kind == WRITE, starts)
    return _chosen(found, (reads > 0) | certain), problems


def _chosen(found: Clusters, which: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Clusters:
    """Give some of the clusters, ordered by cell and first reply."""
    at = np.flatnonzero(which)
    at = at[np.lexsort((found.first[at], found.cell[at]))]
    return Clusters(found.cell[at], found.value[at], found.written[at], found.first[at], found.last[at])


def _key(cell: Ints, time: Ints) -> Ints:
    """Order by cell, then time (which may be NEVER)."""
    return (cell << _TIME_BITS) + time + 1


def check(history: History, cells: int) -> tuple[Clusters, list[str]]:
    """Judge every cell; gives the clusters for further checks, and what cannot be explained.

    Times must be small: count them from the beginning of the run.
    """
    history = begun(history, cells)
    found, problems = clusters(history)
    spans = _chosen(found, found.first < found.last)
    problems += _overlapping(spans)
    points = _chosen(found, found.first >= found.last)
    problems += _inside(spans, points.cell, points.value, points.last, points.first)
    zeros = history.where((history.value == 0) & (history.kind != MAYBE))
    problems += _inside(spans, zeros.cell, zeros.value, zeros.invoked, zeros.returned)
    problems += _zeros_without_reason(history, found)
    torn = history.where(history.value < 0)
    problems += [f"cell {cell}: a read gave what is no stamp" for cell in torn.cell]
    return found, problems


def _overlapping(spans: Clusters) -> list[str]:
    same = spans.cell[1:] == spans.cell[:-1]
    return [
        f"cell {spans.cell[at]}: {tell(int(spans.value[at]))} was there until {spans.last[at]} at least, and "
        f"{tell(int(spans.value[at + 1]))} from {spans.first[at + 1]} at the latest"
        for at in np.flatnonzero(same & (spans.first[1:] < spans.last[:-1]))
    ]


def _inside(spans: Clusters, cell: Ints, value: Ints, start: Ints, end: Ints) -> list[str]:
    """Give those of the intervals that lie inside a span of another value of the same cell."""
    if not len(spans.cell):
        return []
    at = np.searchsorted(_key(spans.cell, spans.first), _key(cell, start)) - 1
    wrong = (at >= 0) & (spans.cell[at] == cell) & (spans.first[at] < start) & (end < spans.last[at])
    return [
        f"cell {cell[each]}: {tell(int(value[each]))} between {start[each]} and {end[each]}, while it was "
        f"{tell(int(spans.value[at[each]]))} from {spans.first[at[each]]} to {spans.last[at[each]]}"
        for each in np.flatnonzero(wrong)
    ]


def _zeros_without_reason(history: History, found: Clusters) -> list[str]:
    """A value that was seen was there, also when the reply to its write came late or never."""
    reads = history.where((history.value == 0) & (history.kind == READ))
    if not len(reads):
        return []
    ones = np.ones(len(found.cell), np.int64)
    none = history.flushes[:0]
    seen = History(found.cell, found.value, found.written, found.first, ones * WRITE, ones, none)
    zeroed = history.where((history.value == 0) & (history.kind == WRITE))
    latest = overwritten_at(History.joined([seen, zeroed]), reads.cell, reads.invoked)
    lasted = zero_until(history, reads.cell, reads.returned)
    return [
        f"cell {reads.cell[at]}: zeros between {reads.invoked[at]} and {reads.returned[at]}, but a change "
        f"that began at {latest[at]} was over, and nothing made it zeros since"
        for at in np.flatnonzero(lasted < latest)
    ]


def overwritten_at(changes: History, cell: Ints, moment: Ints) -> Ints:
    """Give when the latest of the changes began that were over before the moment; the first is NEVER."""
    order = np.argsort(_key(changes.cell, changes.returned), kind="stable")
    begun_at: Ints = np.maximum.accumulate(_key(changes.cell, changes.invoked)[order])
    at = np.searchsorted(_key(changes.cell, changes.returned)[order], _key(cell, moment)) - 1
    return begun_at[at] - (cell << _TIME_BITS) - 1


def zero_until(history: History, cell: Ints, moment: Ints) -> Ints:
    """Give until when zeros may have come into a cell, by changes asked for until the moment."""
    zeros = history.where((history.value == 0) & (history.kind != READ))
    order = np.argsort(_key(zeros.cell, zeros.invoked), kind="stable")
    until: Ints = np.maximum.accumulate(_key(zeros.cell, zeros.returned)[order])
    at = np.searchsorted(_key(zeros.cell, zeros.invoked)[order], _key(cell, moment), side="right") - 1
    return until[at] - (cell << _TIME_BITS) - 1

# SPDX-License-Identifier: Apache-2.0
"""The checkers of concurrent histories find what is wrong with hand-made ones, and nothing else."""

import numpy as np
import pytest

from proof.concurrency import cuts, linear
from proof.concurrency.cells import BLOCK, TORN, Cells, stamp_of
from proof.concurrency.cuts import Cut
from proof.concurrency.history import MAYBE, READ, WRITE, History
from proof.concurrency.linear import Restored

A, B, C = stamp_of(1, 1), stamp_of(2, 1), stamp_of(3, 1)
CELLS = 3


def history(*rows, flushes=()):
    """Rows of (cell, value, invoked, returned, kind), and durable where it is."""
    return History.of([(*row, 0)[:6] for row in rows], flushes)


def problems(*rows, reverts=()):
    found = linear.versioned(history(*rows), list(reverts))
    return linear.check(found, CELLS)[1]


LEGAL = {
    "read after write": [(0, A, 1, 2, WRITE), (0, A, 3, 4, READ)],
    "read beside write, old": [(0, A, 1, 9, WRITE), (0, 0, 2, 3, READ)],
    "read beside write, new": [(0, A, 1, 9, WRITE), (0, A, 2, 3, READ)],
    "writes beside each other, either order": [
        (0, A, 1, 9, WRITE),
        (0, B, 2, 8, WRITE),
        (0, A, 10, 11, READ),
    ],
    "the later of two": [(0, A, 1, 2, WRITE), (0, B, 3, 4, WRITE), (0, B, 5, 6, READ)],
    "lost or not: not": [(0, A, 1, 2, MAYBE), (0, 0, 3, 4, READ)],
    "lost or not: there": [(0, A, 1, 2, MAYBE), (0, A, 3, 4, READ)],
    "zeros again": [(0, A, 1, 2, WRITE), (0, 0, 3, 4, WRITE), (0, 0, 5, 6, READ)],
    "zeros of a change whose reply was lost": [(0, A, 1, 2, WRITE), (0, 0, 3, 4, MAYBE), (0, 0, 5, 6, READ)],
    "cells know nothing of each other": [(0, A, 1, 2, WRITE), (1, 0, 3, 4, READ)],
}
ILLEGAL = {
    "old after new": [(0, A, 1, 2, WRITE), (0, B, 3, 4, WRITE), (0, A, 5, 6, READ)],
    "new and then old, beside the write": [(0, A, 1, 9, WRITE), (0, A, 2, 3, READ), (0, 0, 4, 5, READ)],
    "there and back": [
        (0, A, 1, 20, WRITE), (0, B, 2, 21, WRITE),
        (0, A, 3, 4, READ), (0, B, 5, 6, READ), (0, A, 7, 8, READ),
    ],
    "before it was written": [(0, A, 5, 6, WRITE), (0, A, 1, 2, READ)],
    "what nobody wrote": [(0, A, 1, 2, READ)],
    "acknowledged and gone": [(0, A, 1, 2, WRITE), (0, 0, 3, 4, READ)],
    "another cell's": [(0, A, 1, 2, WRITE), (1, A, 3, 4, READ)],
    "zeros in between": [
        (0, A, 1, 2, WRITE), (0, 0, 3, 20, WRITE), (0, A, 4, 5, READ), (0, 0, 6, 7, READ), (0, A, 8, 9, READ),
    ],
    "a zero that had no effect": [(0, A, 1, 2, WRITE), (0, 0, 3, 4, WRITE), (0, A, 5, 6, READ)],
    "lost, seen, and gone": [(0, A, 1, 2, MAYBE), (0, A, 3, 4, READ), (0, 0, 5, 6, READ)],
    "torn": [(0, TORN, 1, 2, READ)],
}  # fmt: skip


@pytest.mark.parametrize("rows", LEGAL.values(), ids=LEGAL)
def test_what_a_register_may_do(rows):
    assert problems(*rows) == []


@pytest.mark.parametrize("rows", ILLEGAL.values(), ids=ILLEGAL)
def test_what_no_register_does(rows):
    assert problems(*rows)


def brute_force(rows):
    """Try every order of the operations on one cell."""

    def explain(left, value):
        if not left:
            return True
        earliest = min(row[3] for row in left)
        for at, (_, wanted, invoked, _, kind) in enumerate(left):
            if invoked <= earliest and (kind == WRITE or wanted == value):
                rest = left[:at] + left[at + 1 :]
                if explain(rest, wanted):
                    return True
        return False

    return explain(rows, 0)


def test_random_histories_are_judged_as_by_trying_every_order():
    """Values are unique and no zeros are written, so the judgement is exact."""
    chance = np.random.default_rng(5)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        rows = []
        for number in range(int(chance.integers(1, 4))):
            start = int(chance.integers(0, 30))
            rows.append(
                (0, stamp_of(1, number + 1), 2 * start, 2 * start + 1 + 2 * int(chance.integers(1, 9)), WRITE)
            )
        writes = list(rows)
        for _ in range(int(chance.integers(1, 4))):
            start = int(chance.integers(0, 30))
            value = writes[int(chance.integers(len(writes)))][1]
            rows.append((0, value, 2 * start, 2 * start + 1 + 2 * int(chance.integers(1, 5)), READ))
        legal = brute_force(rows)
        verdicts[legal] += 1
        assert (problems(*rows) == []) == legal, rows
    assert min(verdicts.values()) > 100


def restored(invoked, returned, *values):
    return Restored(invoked, returned, np.array(values, np.int64))


def test_a_revert_writes_every_cell_once_more():
    rows = [(0, A, 1, 2, WRITE), (0, B, 3, 4, WRITE), (1, C, 3, 4, WRITE)]
    back = restored(5, 6, A, 0, 0)
    assert problems(*rows, (0, A, 7, 8, READ), (1, 0, 7, 8, READ), reverts=[back]) == []
    assert problems(*rows, (0, B, 7, 8, READ), reverts=[back])
    assert problems(*rows, (1, C, 7, 8, READ), reverts=[back])
    assert problems(*rows, (0, A, 4, 5, READ), (0, A, 7, 8, READ), (0, B, 9, 10, READ), reverts=[back])


def moment(invoked, returned, *values, disk=0, writes=False):
    return Cut("cut", disk, invoked, returned, np.array(values, np.int64), writes)


def judged(rows, *group):
    tables = []
    for disk in range(2):
        own = [row for row in rows if row[0] // CELLS == disk]
        reads = [cut.reads() for cut in group if cut.disk == disk]
        shifted = history(*((row[0] % CELLS, *row[1:]) for row in own))
        found, wrong = linear.check(History.joined([shifted, *reads]), CELLS)
        assert wrong == []  # each cell alone can be explained
        tables.append(found)
    return cuts.check(group, tables)


ONE_AFTER_THE_OTHER = [(0, A, 1, 4, WRITE), (1, B, 5, 6, WRITE)]


def test_a_snapshot_without_what_came_first_is_of_no_moment():
    both = [*ONE_AFTER_THE_OTHER, (1, C, 1, 2, WRITE)]
    assert judged(both, moment(0, 9, A, C, 0)) is None
    assert judged(both, moment(0, 9, A, B, 0)) is None
    before = [(0, C, 0, 1, WRITE), (0, A, 2, 3, WRITE), (1, B, 5, 6, WRITE)]
    assert judged(before, moment(0, 9, C, 0, 0)) is None
    assert "not of one moment" in judged(before, moment(0, 9, C, B, 0))


def test_a_group_is_of_one_moment_across_its_disks():
    rows = [(0, C, 0, 1, WRITE), (0, A, 2, 3, WRITE), (CELLS, B, 5, 6, WRITE)]
    assert judged(rows, moment(0, 9, A, 0, 0), moment(0, 9, B, 0, 0, disk=1)) is None
    assert judged(rows, moment(0, 9, C, 0, 0), moment(0, 9, B, 0, 0, disk=1))


def test_a_snapshot_shows_what_was_read_before_and_not_what_came_after():
    rows = [(0, A, 1, 20, WRITE), (1, C, 1, 2, WRITE), (1, B, 8, 9, WRITE), (0, A, 3, 4, READ)]
    assert judged(rows, moment(5, 7, A, C, 0)) is None
    rows = [(0, C, 0, 1, WRITE), (0, A, 2, 20, WRITE), (0, A, 3, 4, READ), (1, B, 5, 19, WRITE)]
    assert judged(rows, moment(2, 18, C, B, 0))


def test_what_was_flushed_is_there_after_a_crash():
    rows = [(0, A, 1, 2, WRITE), (1, B, 1, 2, WRITE), (0, C, 6, 7, WRITE)]
    known = linear.begun(history(*rows, flushes=[(3, 4)]), CELLS)
    assert cuts.check_flushed(moment(0, 99, C, B, 0), known) == []
    assert cuts.check_flushed(moment(0, 99, A, B, 0), known) == []
    assert len(cuts.check_flushed(moment(0, 99, 0, B, 0), known)) == 1
    assert len(cuts.check_flushed(moment(0, 99, A, 0, 0), known)) == 1
    assert cuts.check_flushed(moment(0, 99, 0, 0, 0), linear.begun(history(*rows), CELLS)) == []


def test_cells_know_their_stamps():
    cells = Cells(8 * BLOCK, 3)
    data = cells.fill(A, 0, len(cells))
    assert len(data) == cells.size
    assert cells.stamps(data, 0, len(cells)) == [A] * len(cells)
    assert cells.stamps(bytes(len(data)), 0, len(cells)) == [0] * len(cells)
    assert Cells(8 * BLOCK, 2).stamps(data, 0, len(cells)) == [TORN] * len(cells)
    torn = cells.fill(A, 0, 1)[:16] + cells.fill(B, 0, 1)[16:]
    assert cells.stamps(torn, 0, 1) == [TORN]
    assert cells.stamps(cells.fill(A, 1, 1), 2, 1) == [TORN]
    assert cells.torn(torn, 0, 1) == [
        "cell 0 (4096 bytes): client 1 request 1 of disk 3 cell 0 from byte 0, "
        "client 2 request 1 of disk 3 cell 0 from byte 16"
    ]


def test_only_whole_blocks_are_trimmed():
    cells = Cells(8 * BLOCK, 0)
    first = cells.below(BLOCK)  # of the block that is cut
    assert cells.trimmed(first, 1) == (first, 0)
    assert cells.trimmed(first, 4) == (first, 4)
    assert cells.trimmed(first - 1, 3) == (first - 1, 1)
    assert cells.trimmed(first + 1, 5) == (first + 4, 2)

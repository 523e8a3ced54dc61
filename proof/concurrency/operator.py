# SPDX-License-Identifier: Apache-2.0
"""The operator: snapshots, groups, clones, reverts, resizes and deletions, one after the other, under load.

What it reads of snapshots and clones, and what its reverts and shrinkings do to the disks, is noted for the
checks.  A request whose answer got lost (the daemon was killed) is followed by a snapshot, which finishes
whatever was interrupted and tells how it ended.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from fisk_core.client import RemoteEngine
from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import FiskError
from proof.concurrency.cells import BLOCK, Cells, stamp_of
from proof.concurrency.cuts import Cut, restoring, versioned
from proof.concurrency.history import MAYBE, WRITE, History, Ints
from proof.concurrency.linear import Restored

WITNESS = 255
"""the client number of the operator's own writes"""
_KEPT = 5  # snapshots of each disk
_PATIENCE = 120.0


@dataclass(slots=True)
class Snapshot:
    """A frozen Fisk that was read once, and must stay so."""

    name: str
    disk: int
    size: int
    values: Ints


@dataclass(slots=True)
class Done:
    """What the operator noted."""

    cuts: list[list[Cut]] = field(default_factory=list)
    """those of one list were made at one moment"""
    rows: dict[int, list[tuple[int, int, int, int, int, int]]] = field(default_factory=dict)
    reverts: dict[int, list[Restored]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    trace: list[tuple[int, int, str]] = field(default_factory=list)
    """(begun, ended, what) of every act"""

    def note(self, what: str) -> None:
        """Add to the trace of the act under way."""
        self.trace.append((0, 0, what))

    def count(self, what: str, more: int = 1) -> None:
        self.counts[what] += more


class Operator:
    """Works on ``disks`` (name → cells) with a client of the daemon of its own."""

    def __init__(self, engine: RemoteEngine, disks: dict[str, Cells], chance: random.Random) -> None:
        self.engine, self.disks, self.chance = engine, disks, chance
        self.sizes = {name: cells.size for name, cells in disks.items()}
        self.done = Done(
            rows={cells.disk: [] for cells in disks.values()},
            reverts={cells.disk: [] for cells in disks.values()},
        )
        self.snapshots: list[Snapshot] = []
        self._number = self._sequence = 0

    def step(self) -> None:
        """Do one thing more."""
        acts = (self.single, self.single, self.single, self.group, self.group, self.clone, self.short_lived,
                self.clone_of_snapshot, self.delete, self.revert, self.resize)  # fmt: skip
        self._try(self.chance.choice(acts))
        while len(self.snapshots) > _KEPT * len(self.disks):
            self._try(lambda: self._remove(self.snapshots[0]))

    def _try(self, act: Callable[[], None]) -> None:
        """Do something; what was refused as a whole, because something was just dying, is counted.

        Where it could have been half done, the act itself looks into that.
        """
        began, about = time.monotonic_ns(), len(self.done.trace)
        try:
            act()
        except FiskError as exc:
            self.done.refused.append(f"{act.__name__}: {exc}")
        told = ", ".join(str(each[2]) for each in self.done.trace[about:])
        self.done.trace[about:] = [(began, time.monotonic_ns(), f"{act.__name__} {told}")]

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"

    def _any(self) -> str:
        return self.chance.choice([*self.disks])

    # Reading

    def read(self, ref: str, cells: Cells, size: int) -> Ints:
        """Give the value of every cell of a Fisk; -2 where it has none."""
        values = np.full(len(cells), -2, np.int64)
        count = cells.below(size)
        with self.engine.open_disk(ref) as disk:
            values[:count] = cells.stamps(disk.read(0, size), 0, count)
        if (values == -1).any():
            self.done.problems.append(f"{ref}: cell {int((values == -1).argmax())} holds what is no stamp")
        return values

    def _taken(self, ref: str, disk: str, invoked: int, returned: int) -> Cut:
        """Read what was frozen of a disk."""
        cells, size = self.disks[disk], self.engine.get(ref).size
        values = self.read(ref, cells, size)
        self.snapshots.append(Snapshot(ref, cells.disk, size, values))
        self.done.count("snapshots")
        return Cut(ref, cells.disk, invoked, returned, values)

    def unchanged(self, snapshot: Snapshot, ref: str) -> None:
        """Compare what a snapshot, or a clone of it, holds with what was read first."""
        cells = next(each for each in self.disks.values() if each.disk == snapshot.disk)
        found = self.read(ref, cells, snapshot.size)
        for cell in np.flatnonzero(found != snapshot.values)[:3]:
            self.done.problems.append(
                f"{ref}: cell {cell} was {snapshot.values[cell]} in {snapshot.name} and is {found[cell]}"
            )
        self.done.count("read again")

    # Acts

    def single(self) -> None:
        self._snapshot(self._any())

    def _snapshot(self, disk: str) -> Cut:
        name = self._name("s")
        invoked = time.monotonic_ns()
        self.done.note(f"{name} of {disk}")
        self.engine.snapshot(disk, name)
        cut = self._taken(name, disk, invoked, time.monotonic_ns())
        self.done.cuts.append([cut])
        return cut

    def _probe(self, disk: str) -> Cut:
        """Take a snapshot, however long that takes: it finishes what was interrupted, and shows how."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._snapshot(disk)
            except FiskError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def group(self) -> None:
        """All disks at one moment; all of it exists, or nothing."""
        names = {disk: self._name("g") for disk in self.disks}
        invoked = time.monotonic_ns()
        try:
            self.engine.group_snapshot([*names.items()])
        except FiskError:
            there = [name for name in names.values() if self.engine.list(name=name)]
            if len(there) not in (0, len(names)):
                self.done.problems.append(f"of the group {[*names.values()]} there is only {there}")
            if len(there) < len(names):
                raise
        returned = time.monotonic_ns()
        self.done.cuts.append([self._taken(name, disk, invoked, returned) for disk, name in names.items()])
        self.done.count("groups")

    def clone(self) -> None:
        """A clone of what is live holds one moment as well; it goes again at once."""
        disk, name = self._any(), self._name("c")
        invoked = time.monotonic_ns()
        self.engine.clone(disk, name)
        returned = time.monotonic_ns()
        cut = self._taken(name, disk, invoked, returned)
        self.done.cuts.append([cut])
        self.done.count("clones")
        self._remove(self.snapshots[-1])

    def clone_of_snapshot(self) -> None:
        """A clone outlives what it was made of; what is written to it stays in it."""
        if not self.snapshots:
            return
        snapshot, name = self.chance.choice(self.snapshots), self._name("c")
        self.engine.clone(snapshot.name, name)
        if self.chance.random() < 0.5:
            self._remove(snapshot)
        self.unchanged(snapshot, name)
        with self.engine.open_disk(name, writable=True) as opened:
            opened.write(BLOCK // 2, b"\xff" * (3 * BLOCK))
            if opened.read(BLOCK // 2, 3 * BLOCK) != b"\xff" * (3 * BLOCK):
                self.done.problems.append(f"{name} does not hold what was written to it")
        self.engine.delete(name, force=True)
        self.done.count("clones")

    def short_lived(self) -> None:
        """Snapshots that nobody reads: layers that become garbage while the collector runs."""
        disk = self._any()
        names = [self._name("x") for _ in range(3)]
        for name in names:
            self.engine.snapshot(disk, name)
        self.engine.delete(*names)
        self.done.count("deleted", len(names))

    def delete(self) -> None:
        if self.snapshots:
            self._remove(self.chance.choice(self.snapshots))

    def _remove(self, snapshot: Snapshot) -> None:
        """Look once more (now and then: it takes a worker each time), then delete."""
        self.snapshots.remove(snapshot)
        if self.chance.random() < 0.4:
            self.unchanged(snapshot, snapshot.name)
        self.engine.delete(snapshot.name, force=True)
        self.done.count("deleted")

    def revert(self) -> None:
        """Give a disk the content of one of its snapshots."""
        disk = self._any()
        cells = self.disks[disk]
        own = [each for each in self.snapshots if each.disk == cells.disk]
        if not own:
            return
        snapshot = self.chance.choice(own)
        self.done.note(f"{disk} to {snapshot.name} of {snapshot.size} bytes")
        witness = self._witness(disk)
        invoked = time.monotonic_ns()
        try:
            self.engine.revert(disk, snapshot.name)
            returned = time.monotonic_ns()
        except FiskError:
            returned = 0
        self._ended_as(disk, snapshot, witness, invoked, returned)

    def _ended_as(self, disk: str, snapshot: Snapshot, witness: int, invoked: int, returned: int) -> None:
        """Note the revert, if it took place: then what was written just before it is gone."""
        cells = self.disks[disk]
        if not returned:
            found = self._probe(disk)
            returned = found.returned
            if found.values[0] == witness:
                self.done.refused.append("revert: it did not take place")
                return
            # That snapshot may be from before the revert's reply: it is a cut of its own, which is as much
            # as is known.
        values = np.where(snapshot.values == -2, 0, snapshot.values)
        self.done.reverts[cells.disk].append(Restored(invoked, returned, values))
        cut = Cut(f"the revert to {snapshot.name}", cells.disk, invoked, returned, values, writes=True)
        self.done.cuts.append([cut])
        self.sizes[disk] = snapshot.size
        self.done.count("reverts")

    def _witness(self, disk: str) -> int:
        """Write to the first cell, which no client uses; gives the stamp."""
        cells = self.disks[disk]
        self._sequence += 1
        stamp = stamp_of(WITNESS, self._sequence)
        invoked, kind = time.monotonic_ns(), MAYBE
        try:
            attachment = next(each for each in self.engine.attachments(fisk=self.engine.get(disk).id))
            with NbdClient.connect(attachment.uris[0]) as client:
                client.write(0, cells.fill(stamp, 0, 1))
                kind = WRITE
        finally:
            self.done.rows[cells.disk].append((0, stamp, invoked, time.monotonic_ns(), kind, 0))
        return stamp

    def resize(self) -> None:
        """Shrink, which makes what was behind the end zeros for good, or grow again."""
        disk = self._any()
        cells = self.disks[disk]
        self.done.note(f"{disk} of {self.sizes[disk]} bytes")
        if self.sizes[disk] < cells.size:
            self.engine.resize(disk, cells.size)
            self.sizes[disk] = cells.size
            self.done.count("resizes")
            return
        size = cells.size - BLOCK * self.chance.randint(1, 40)
        self.done.note(f"to {size} bytes")
        invoked, kind = time.monotonic_ns(), WRITE
        try:
            self.engine.resize(disk, size, shrink=True)
        except FiskError:
            kind = MAYBE
            self._probe(disk)
        returned = time.monotonic_ns()
        self.sizes[disk] = self.engine.get(disk).size
        if kind == WRITE or self.sizes[disk] == size:
            self.done.rows[cells.disk].extend(
                (cell, 0, invoked, returned, WRITE, 1) for cell in range(cells.below(size), len(cells))
            )
        self.done.count("resizes")

    def rows(self, disk: int) -> History:
        """Give what was noted of one disk, the cuts as reads of every cell."""
        reads = [
            cut.reads() for cuts in self.done.cuts for cut in cuts if cut.disk == disk and not cut.writes
        ]
        return History.joined([History.of(self.done.rows[disk]), *reads])

    def reverts(self, disk: int, began: int) -> list[Restored]:
        """Give the reverts of one disk, with times since ``began``."""
        return [
            replace(each, invoked=each.invoked - began, returned=each.returned - began)
            for each in self.done.reverts[disk]
        ]

    def cuts(self, began: int) -> Iterator[list[Cut]]:
        """Give the cuts of each moment, with times since ``began`` and the values as the checks know them."""
        reverted: Counter[int] = Counter()
        for group in self.done.cuts:
            reverted.update(cut.disk for cut in group if cut.writes)
            yield [
                restoring(cut.since(began), reverted[cut.disk])
                if cut.writes
                else versioned(cut.since(began), self.reverts(cut.disk, began))
                for cut in group
            ]

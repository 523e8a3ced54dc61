# SPDX-License-Identifier: Apache-2.0
"""What the soak's operator does: what people do to Fisks, one thing after the other."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError
from fisk_core.reports import Problem
from proof.soak.clients import BLOCK, stamp_in

if TYPE_CHECKING:
    from proof.soak.soak import Result

_KEPT = 12
_PASSING = {"leak"}
"""kinds of problems that a killed daemon leaves, which ``check --repair`` removes"""


@dataclass(slots=True)
class Taken:
    """A frozen Fisk, and the digest of what it held when it was read first."""

    name: str
    digest: bytes


class Acts:
    """Works on ``fisks`` (names) through the daemon; notes what was done and what was wrong."""

    def __init__(
        self, engine: RemoteEngine, fisks: list[str], chance: random.Random, result: "Result"
    ) -> None:
        self.engine, self.fisks, self.chance, self.result = engine, fisks, chance, result
        self.taken: list[Taken] = []
        self._number = 0
        self.all: dict[Callable[[], None], int] = {
            self.snapshot: 6, self.group: 2, self.verify: 4, self.clone: 3, self.delete: 5, self.collect: 2,
            self.scrub: 1, self.check: 1, self.resize: 2, self.move: 1, self.upgrade: 2,
        }  # fmt: skip

    def one(self) -> None:
        """Do one thing, chosen by weight."""
        (act,) = self.chance.choices([*self.all], [*self.all.values()])
        self.do(act)
        while len(self.taken) > _KEPT:
            self.do(self.delete)

    def do(self, act: Callable[[], None]) -> None:
        """Do this; what was refused because something was just dying is counted."""
        try:
            act()
            self.result.counts[act.__name__] += 1
        except FiskError as exc:
            self.result.counts["refused"] += 1
            self.result.refused[f"{act.__name__}: {type(exc).__name__}"] += 1

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}{self._number}"

    def _any(self) -> str:
        return self.chance.choice(self.fisks)

    def _digest(self, ref: str) -> bytes:
        """Read a whole Fisk; every block of it is a stamp of its own place, or zeros."""
        with self.engine.open_disk(ref) as disk:
            data = disk.read(0, disk.size)
        for block in range(len(data) // BLOCK):
            if stamp_in(data[block * BLOCK : (block + 1) * BLOCK], block) is None:
                self.result.problems.append(f"{ref}: block {block} holds what nobody wrote")
                break
        return hashlib.blake2b(data).digest()

    def snapshot(self) -> None:
        name = self._name("s")
        self.engine.snapshot(self._any(), name)
        self.taken.append(Taken(name, self._digest(name)))

    def group(self) -> None:
        pairs = [(fisk, self._name("g")) for fisk in self.chance.sample(self.fisks, 2)]
        self.engine.group_snapshot(pairs)
        self.taken += [Taken(name, self._digest(name)) for _, name in pairs]

    def verify(self) -> None:
        if self.taken:
            self.verify_one(self.chance.choice(self.taken))

    def verify_one(self, taken: Taken, ref: str = "") -> None:
        self.result.counts["snapshots verified"] += 1
        if self._digest(ref or taken.name) != taken.digest:
            self.result.problems.append(f"{ref or taken.name} is not what {taken.name} was when it was taken")

    def clone(self) -> None:
        """A clone holds what its snapshot held, also after that is gone; it goes at last."""
        if not self.taken:
            return
        taken, name = self.chance.choice(self.taken), self._name("c")
        self.engine.clone(taken.name, name)
        if self.chance.random() < 0.5:
            self._remove(taken)
        self.verify_one(taken, name)
        with self.engine.open_disk(name, writable=True) as disk:
            disk.write(disk.size // 2, bytes(BLOCK))
        self.engine.delete(name, force=True)

    def delete(self) -> None:
        if self.taken:
            self._remove(self.chance.choice(self.taken))

    def _remove(self, taken: Taken) -> None:
        self.taken.remove(taken)
        self.engine.delete(taken.name, force=True)

    def collect(self) -> None:
        self.result.counts["bytes reclaimed"] += self.engine.collect().reclaimed

    def scrub(self) -> None:
        report = self.engine.scrub(*([self.chance.choice(self.taken).name] if self.taken else []))
        self._blame(report.problems)

    def check(self) -> None:
        self._blame([each for each in self.engine.check().problems if each.kind not in _PASSING])

    def _blame(self, problems: list[Problem]) -> None:
        self.result.problems += [f"{each.kind} of {each.subject}: {each.message}" for each in problems]

    def resize(self) -> None:
        """Change the tail, which is no client's."""
        name = self._any()
        size = 2048 + self.chance.randint(1, 512)
        self.engine.resize(name, size * BLOCK, shrink=True)

    def move(self) -> None:
        name = self._any()
        self.engine.move(name, "other" if self.engine.get(name).pool == "default" else "default")

    def upgrade(self) -> None:
        self.engine.upgrade(self._any())

    def remove_all(self) -> None:
        """Delete every frozen Fisk, those of the schedules too."""
        for schedule in self.engine.schedules.list():
            self.engine.schedules.delete(schedule.id)
        self.taken.clear()
        for fisk in self.engine.list(state="frozen"):
            self.engine.delete(fisk.id, force=True)

# SPDX-License-Identifier: Apache-2.0
"""A cut that broke a promise, kept so that anybody can look at it again.

A replay is a gzip file of JSON lines: what it is of, then the records up to the cut.  Paths in a catalog are
absolute, so it is looked at where it was recorded: that directory is made, and removed afterwards.
"""

import base64
import gzip
import json
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proof.power import records as kinds
from proof.power.cuts import Choice, Moment, left, moments
from proof.power.judge import Judge, Verdict
from proof.power.records import Record

_DATA = "base64:"


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut: of a recording made at ``root``, after so many records, what is kept, how it is judged."""

    root: str
    recording: str
    position: int
    choice: str
    unit: int
    deep: bool

    @property
    def chosen(self) -> Choice:
        return Choice(self.choice, self.unit)

    def judge(self, judge: Judge, now: Moment) -> Verdict:
        """Put what is left in place and look at it."""
        judge.clear()
        left(now.medium, self.chosen).write_to(Path(self.root))
        pick = random.Random(f"{self.recording}:{self.position}:{self.choice}")
        return judge.look(now.promises, pick, sector=self.chosen.sector, deep=self.deep)


def save(path: Path, cut: Cut, records: Sequence[Record]) -> None:
    """Keep a cut of ``records``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="ascii") as file:
        file.write(json.dumps({name: getattr(cut, name) for name in Cut.__slots__}) + "\n")
        for record in records[: cut.position]:
            file.write(json.dumps([type(record).__name__, *map(_plain, record)]) + "\n")


def load(path: Path) -> tuple[Cut, list[Record]]:
    """Give what ``save`` kept."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        cut = Cut(**json.loads(next(file)))
        return cut, list(_records(map(json.loads, file)))


def _records(lines: Iterable[list[Any]]) -> Iterator[Record]:
    for name, *fields in lines:
        kind = getattr(kinds, name)
        yield kind(*map(_rich, fields))


def _plain(value: Any) -> Any:
    return _DATA + base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _rich(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_DATA):
        return base64.b64decode(value[len(_DATA) :])
    return tuple(map(tuple, value)) if isinstance(value, list) else value


def show(path: Path) -> Verdict:
    """Look at a replay again; raises FileExistsError when its place is taken."""
    cut, records = load(path)
    root = Path(cut.root)
    first = next(each for each in [*reversed(root.parents), root] if not each.exists())
    root.mkdir(parents=True)
    try:
        for now in moments(records):
            if now.position == cut.position:
                return cut.judge(Judge(root), now)
    finally:
        shutil.rmtree(first)
    raise ValueError(f"{path} has no cut after {cut.position} records")

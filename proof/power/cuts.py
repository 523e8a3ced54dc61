# SPDX-License-Identifier: Apache-2.0
"""Where a recording is cut, and what of that which was not durable is kept.

After every record: everything (as after a kill), nothing, only data, only names; and choices at random, or
all there are where they are few.  A choice is known by its name, so that it can be made again.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proof.power.medium import PAGE, Change, Image, Medium, Naming, Pending, Torn
from proof.power.promises import Promises
from proof.power.records import Note, Record

_FEW = 3
SECTOR = 512
_EXTREMES = ("all", "none", "data", "names")
_RANDOM = ("subset", "prefix", "files", "torn", "torn")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is kept, by name: ``mask-5`` keeps the first and the third; those with a dot are random."""

    name: str
    unit: int = PAGE

    @property
    def sector(self) -> int | None:
        """What the medium writes as a whole, for who compares blocks."""
        return self.unit if self.unit < PAGE else None


@dataclass(slots=True)
class Moment:
    """A recording up to somewhere: ``position`` records were taken."""

    position: int
    medium: Medium
    promises: Promises
    last: Record | None = None
    """what was done last"""


def moments(records: Sequence[Record]) -> Iterator[Moment]:
    """Give each moment at which a recording is cut: after a record, and all that it was the end of.

    The same objects are given each time, in another state.
    """
    now = Moment(0, Medium(), Promises())
    while now.position < len(records):
        record = records[now.position]
        if isinstance(record, Note):
            now.promises.take(record.text)
            now.position += 1
            continue
        now.medium.take(record)
        now.last = record
        now.position += 1
        for _ in range(_ends(records, now.position)):
            note = records[now.position]
            assert isinstance(note, Note)
            now.promises.take(note.text)
            now.position += 1
        if now.promises.home and now.medium.is_left(record):
            yield now


def _ends(records: Sequence[Record], start: int) -> int:
    """Give how many notes there are up to the last end of something, before anything else happens."""
    found, end = 0, start
    while end < len(records):
        record = records[end]
        if not isinstance(record, Note):
            break
        end += 1
        if "do" not in json.loads(record.text):
            found = end - start
    return found


def choices(now: Moment, some: int, pick: random.Random) -> Iterator[Choice]:
    """Give what is to be tried at a moment: the extremes, and ``some`` more; but one after a dull record."""
    pending = now.medium.pending
    chosen = [Choice("all")]
    if pending:
        chosen.append(Choice("none"))
    if 0 < len(pending) <= _FEW:
        chosen += [Choice(f"mask-{mask}") for mask in range(1, (1 << len(pending)) - 1)]
    elif pending:
        chosen += [Choice(each) for each in _EXTREMES[2:]]
    for _ in range(some if pending else 0):
        name = pick.choice(_RANDOM)
        chosen.append(Choice(f"{name}.{pick.getrandbits(32)}", pick.choice((SECTOR, PAGE))))
    if now.last is not None and now.medium.is_dull(now.last):
        chosen = [pick.choice(chosen)]
    yield from chosen


def left(medium: Medium, choice: Choice) -> Image:
    """Give the medium with what is kept."""
    name, _, seed = choice.name.partition(".")
    torn: Torn = {}
    kept = _KEEP[name.partition("-")[0]](medium.pending, choice, random.Random(seed), torn)
    return medium.left(kept, choice.unit, torn)


def _all(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    return list(pending)


def _none(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    return []


def _data(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    """All names that were not synced are lost."""
    return [each for each in pending if isinstance(each, Change)]


def _names(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    """All data that was not synced is lost."""
    return [each for each in pending if isinstance(each, Naming)]


def _mask(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    mask = int(choice.name.partition("-")[2])
    return [each for number, each in enumerate(pending) if mask >> number & 1]


def _prefix(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    return list(pending[: pick.randint(0, len(pending))])


def _subset(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    share = pick.choice((0.1, 0.5, 0.9))
    return [each for each in pending if pick.random() < share]


def _files(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    """All data of some files, none of the others, and some names."""
    whole = {each.file: pick.random() < 0.5 for each in pending if isinstance(each, Change)}
    return [
        each for each in pending if (whole[each.file] if isinstance(each, Change) else pick.random() < 0.5)
    ]


def _torn(pending: Sequence[Pending], choice: Choice, pick: random.Random, torn: Torn) -> list[Pending]:
    """A part of the last change, and most of those before it."""
    kept = [each for each in pending if pick.random() < 0.9]
    changes = [each for each in pending if isinstance(each, Change)]
    for change in [*changes[-1:], *(pick.sample(changes, 1) if changes else ())]:
        units = {number for number in change.units(choice.unit) if pick.random() < 0.5}
        torn[change] = units.__contains__
        if change not in kept:
            kept = [each for each in pending if each in kept or each is change]
    return kept


_KEEP = {
    "all": _all,
    "none": _none,
    "data": _data,
    "names": _names,
    "mask": _mask,
    "prefix": _prefix,
    "subset": _subset,
    "files": _files,
    "torn": _torn,
}

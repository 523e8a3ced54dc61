# SPDX-License-Identifier: Apache-2.0
"""Opens what a power loss left, as after a boot, and compares it with what was promised."""

import functools
import random
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from fisk_core.catalog import Record, database, fisks, leases
from fisk_core.dataplane.disk import Disk
from fisk_core.engine import Engine, access
from fisk_core.errors import FiskError
from fisk_core.model import State
from proof.oracle import Oracle
from proof.power.promises import Fisks, Promises

_SHOWN = 4
"""problems of one kind that are told"""
_TRIAL = "trial"
_WHOLLY, _JOURNALS = 0.3, 0.15
"""how often a Fisk is opened with all that belongs to it, though it is whole; and journals are left"""

_make_engine = functools.cache(database._make_engine)


@contextmanager
def one_engine() -> Iterator[None]:
    """Use one SQLAlchemy engine for the same path again and again; its connections end with the catalog.

    Statements are compiled once for each, which takes longer than all that a cut needs of them.
    """
    usual, database._make_engine = database._make_engine, _make_engine
    try:
        yield
    finally:
        database._make_engine = usual


class Broken(StrEnum):
    """Which promise."""

    LOST = "lost a flushed block, or held a foreign one"
    CHANGED = "changed a snapshot, or brought back what was deleted"
    REPAIR = "needed a repair to be opened"


class Problem(NamedTuple):
    """What is wrong, for people."""

    kind: Broken
    text: str

    def __str__(self) -> str:
        return self.text


Problems = list[Problem]


@dataclass(slots=True)
class Verdict:
    """What was compared, and what is wrong."""

    fisks: int
    blocks: int
    problems: Problems


class Judge:
    """Looks at what is left at ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clear(self) -> None:
        """Remove what is there."""
        for path in self._root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def look(
        self, promises: Promises, pick: random.Random, *, sector: int | None = None, deep: bool = False
    ) -> Verdict:
        """Open the home, check it, and compare; ``deep``: also go on using it, and compare again.

        ``sector``: what the medium writes as a whole, where that is less than a block.
        """
        verdict = Verdict(0, 0, [])
        try:
            with one_engine(), Engine.open(self._root / promises.home) as engine:
                if pick.random() < _JOURNALS:
                    put_journals(engine, pick)
                verdict.problems += _checked(engine)
                compare = Comparison(engine, promises, sector, pick)
                compare.run(verdict)
                if (deep or compare.takes_over) and not verdict.problems:
                    verdict.problems += use(engine, compare, pick)
        except FiskError as exc:
            verdict.problems.append(Problem(Broken.REPAIR, f"{type(exc).__name__}: {exc}"))
        return verdict


def _checked(engine: Engine) -> Iterator[Problem]:
    for problem in engine.check().errors[:_SHOWN]:
        text = f"check: {problem.kind} {problem.subject}: {problem.message}"
        yield Problem(Broken.REPAIR, text)


class Comparison:
    """What the Fisks of an engine hold, against what they may hold."""

    def __init__(self, engine: Engine, promises: Promises, sector: int | None, pick: random.Random) -> None:
        self._engine, self._promises, self._sector, self._pick = engine, promises, sector, pick
        self._content: dict[str, bytes] = {}
        self._reading: dict[str, str] = {}

    def run(self, verdict: Verdict) -> None:
        """Read everything and compare."""
        found = self._read_all()
        verdict.fisks += len(found)
        verdict.blocks += sum(record.size // record.block_size for record in found.values())
        verdict.problems += self._problems(found)
        pools = set(self._engine.pool_names())
        gone = sorted(self._promises.pools - pools)
        verdict.problems += [Problem(Broken.LOST, f"pool {name} is gone") for name in gone]

    def _read_all(self) -> dict[str, Record]:
        """Read every Fisk; gives them by name.

        What has to be finished, and sometimes another, by ``open_disk`` with its locks and transactions; the
        others by what is left of that when there is nothing to do, which is ten times as fast.  Those first:
        what is finished begins work in the background, that replaces files.
        """
        with self._engine.catalog.read() as conn:
            records = [each for each in fisks.records(conn) if each.state != State.BUILDING]
        chosen = self._pick.choice(records) if records and self._pick.random() < _WHOLLY else None
        for record in sorted(records, key=lambda each: each.unsettled or each is chosen):
            self._read(record, wholly=record.unsettled or record is chosen)
        return {record.name: record for record in records}

    def _read(self, record: Record, *, wholly: bool) -> None:
        try:
            if wholly:
                disk: Disk = self._engine.open_disk(record.id)
            else:
                spec = access.spec_of(self._engine, record, read_only=True)
                disk = Disk.open(self._engine.open_pool(record.pool), spec)
            with disk:
                self._content[record.name] = disk.read(0, disk.size)
        except FiskError as exc:
            self._reading[record.name] = f"Fisk {record.name} cannot be read: {type(exc).__name__}: {exc}"

    def _problems(self, found: Mapping[str, Record]) -> Problems:
        settled: Fisks = {**self._promises.fisks}
        problems: Problems = []
        for doubt in self._promises.doubts.values():
            for name in {*doubt.before, *doubt.after}:
                settled.pop(name, None)
            outcomes = [self._compare(found, fisks) for fisks in (doubt.before, doubt.after)]
            if all(outcomes):
                text = f"neither before ({outcomes[0][0]}) nor after ({outcomes[1][0]})"
                problems.append(Problem(outcomes[0][0].kind, text))
        problems += self._compare(found, settled)
        known = {*settled, *(name for doubt in self._promises.doubts.values() for name in doubt.after)}
        foreign = sorted(found.keys() - known)
        return problems + [Problem(Broken.CHANGED, f"Fisk {name} should not be there") for name in foreign]

    def _compare(self, found: Mapping[str, Record], fisks: Fisks) -> Problems:
        return [
            Problem(Broken.CHANGED if _is_final(found.get(name), oracle) else Broken.LOST, text)
            for name, oracle in fisks.items()
            for text in self._of(found, name, oracle)
        ]

    def _of(self, found: Mapping[str, Record], name: str, oracle: Oracle | None) -> list[str]:
        if oracle is None:
            return [f"Fisk {name} is there"] if name in found else []
        if name not in found:
            return [f"Fisk {name} is gone"]
        if name in self._reading:
            return [self._reading[name]]
        content = self._content[name]
        if len(content) != oracle.size:
            return [f"Fisk {name} has {len(content)} bytes, not {oracle.size}"]
        wrong = oracle.compare(content, crashed=True, sector=self._sector)
        return [f"Fisk {name}, one of {len(wrong)} blocks: {each}" for each in wrong[:_SHOWN]]

    @property
    def takes_over(self) -> bool:
        return bool(self._promises.taken_over)

    def take_over(self) -> Problems:
        """Take the pool of a lost catalog over once more: then everything must be there."""
        pool = self._engine.home.path.parent / self._promises.taken_over
        self._engine.rescan("default", options={"path": str(pool)}, force=True)
        found = self._read_all()
        after = [doubt.after for doubt in self._promises.doubts.values()]
        return [problem for fisks in after for problem in self._compare(found, fisks)]

    def write(self) -> Iterator[Problem]:
        """Open a Fisk for writing, write a block, and read everything of it."""
        with self._engine.catalog.read() as conn:
            live = [each for each in fisks.records(conn) if each.state == State.LIVE]
        if not live:
            return
        record = self._pick.choice(live)
        content = bytearray(self._content[record.name])
        at = self._pick.randrange(-(-record.size // record.block_size)) * record.block_size
        data = self._pick.randbytes(min(record.block_size, record.size - at))
        with self._engine.open_disk(record.id, writable=True) as disk:
            if disk.read(0, disk.size) != content:
                yield Problem(Broken.LOST, f"Fisk {record.name} changed when it was opened for writing")
            disk.write(at, data)
            disk.flush()
        content[at : at + len(data)] = data
        self._content[record.name] = bytes(content)

    def again(self) -> Problems:
        """Read everything once more; gives what differs from what was read before."""
        before, self._content = self._content, {}
        self._read_all()
        changed = [name for name in before if before[name] != self._content.get(name)]
        return [Problem(Broken.CHANGED, f"Fisk {name} changed when others were used") for name in changed]


def _is_final(record: Record | None, oracle: Oracle | None) -> bool:
    """Whether it is about a snapshot, or a deletion."""
    return oracle is None or (record is not None and record.frozen)


def use(engine: Engine, compare: Comparison, pick: random.Random) -> Iterator[Problem]:
    """Go on as if nothing had happened: write, settle, collect, make and delete a Fisk."""
    if compare.takes_over:
        yield from compare.take_over()
    yield from compare.write()
    engine.settle()
    engine.collect()
    yield from compare.again()
    yield from _checked(engine)
    data = pick.randbytes(5000)
    with suppress(FiskError):  # what an earlier cut of the same recording cannot have left, but a script may
        engine.delete(_TRIAL)
    fisk = engine.create(_TRIAL, 1 << 16)
    with engine.open_disk(fisk.id, writable=True) as disk:
        disk.write(700, data)
        disk.flush()
    with engine.open_disk(fisk.id) as disk:
        if disk.read(700, len(data)) != data:
            yield Problem(Broken.LOST, "a new Fisk does not hold what was written to it")
    engine.delete(fisk.id)
    engine.check(repair=True)
    for each in engine.check().problems[:_SHOWN]:
        yield Problem(Broken.REPAIR, f"left after a repair: {each.message}")
    yield from compare.again()


# Journals

_JOURNAL = struct.Struct("=8s36s36sQ")
_COUNTS = struct.Struct("=QQ")
_CHANGES = 4096


def put_journals(engine: Engine, pick: random.Random) -> None:
    """Leave journals that a boot must make void: whole, torn, or empty, of periods that may be written.

    The whole ones have all right but the boot, and tell of blocks that nobody wrote.
    """
    with engine.catalog.read() as conn:
        for record in fisks.records(conn):
            epoch = leases.epoch(conn, record.id)
            for map_id in {record.map_id, record.base_id, record.next_map}:
                if map_id is not None:
                    engine.home.journal(map_id).write_bytes(_journal(map_id, epoch, pick))


def _journal(map_id: str, epoch: int, pick: random.Random) -> bytes:
    boot = str(uuid.UUID(int=pick.getrandbits(128)))
    changes = [(pick.randrange(64), 2 * pick.randint(1, 9) + pick.randint(0, 1)) for _ in range(8)]
    head = bytearray(_CHANGES)
    _JOURNAL.pack_into(head, 0, b"FISKJRN1", map_id.encode(), boot.encode(), epoch)
    _COUNTS.pack_into(head, 128, 0, len(changes))
    whole = bytes(head) + b"".join(_COUNTS.pack(*change) for change in changes)
    return pick.choice((whole, whole, whole[: pick.randrange(len(whole))], bytes(len(whole)), b""))

# SPDX-License-Identifier: Apache-2.0
"""Damage to the catalog: what its file holds is wrong, or rows that are in order say something wrong."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from proof.core import ProofFailed
from proof.rot import damage
from proof.rot.judge import Judge, problems
from proof.rot.specimen import Specimen

_ROWS = 0.4
"""of the trials change a value, in a file that is in order"""
_TABLES = ("fisks", "maps", "layers", "map_layers", "pools")


class CatalogFile:
    """A copy of the catalog in a home of its own, with the same pools."""

    def __init__(self, specimen: Specimen, judge: Judge, folder: Path) -> None:
        self._specimen, self._judge, self._home = specimen, judge, folder
        source = specimen.engine.home.path / "catalog.sqlite"
        with sqlite3.connect(source) as connection:
            data = bytearray(connection.serialize())
        connection.close()
        data[18:20] = b"\1\1"  # without a write-ahead log: opening it turns that on again
        self._data = bytes(data)
        self._older = [data for data in specimen.older.get(source, []) if data != self._data]

    def trial(self, chance: Random) -> str:
        """Damage it; look at it with ``check`` first, and believe what it finds."""
        data: bytes | None
        if chance.random() < _ROWS:
            how, (what, data) = "row", _wrong_row(chance, self._data)
        else:
            how, what, data = damage.choose(chance, damage.Case(self._data, (), tuple(self._older)))
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        if data is not None:
            (self._home / "catalog.sqlite").write_bytes(data)
        try:
            self._judge_one()
        except ProofFailed as exc:
            raise ProofFailed(f"catalog: {what}: {exc}") from exc
        except Exception as exc:  # whatever else comes up is no answer to damage
            raise ProofFailed(f"catalog: {what}: {exc!r}") from exc
        self._judge.tally.counts[f"catalog {how}"] += 1
        return f"catalog: {what}"

    def _judge_one(self) -> None:
        counts = self._judge.tally.counts
        try:
            engine = Engine.open(self._home)
        except FiskError:
            counts["noticed by opening"] += 1
            return
        with engine:
            noticed, before = self._noticed(engine), counts["wrong bytes"]
            try:
                self._read_all(engine)
            except ProofFailed:
                if not noticed:
                    raise
                # An old catalog leads to old maps, all in order: that is why check is asked first.
                counts["wrong bytes"] = before
                counts["Fisks that read otherwise, as check had said"] += 1
        counts["noticed by check" if noticed else "harmless"] += 1

    def _noticed(self, engine: Engine) -> bool:
        try:
            names = {fisk.name for fisk in engine.list()}
            return bool(problems(engine)) or names != {view.name for view in self._specimen.views}
        except FiskError:
            return True

    def _read_all(self, engine: Engine) -> None:
        for view in self._specimen.views:
            try:
                with engine.open_disk(view.name) as disk:
                    if disk.size != len(view.content):
                        raise ProofFailed(f"{view.name} has {disk.size} bytes")
                    self._judge.compare(disk, view)
            except FiskError:
                self._judge.tally.counts["Fisks that a damaged catalog did not open"] += 1


def _wrong_row(chance: Random, data: bytes) -> tuple[str, bytes]:
    """Change one value of one row to something like it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data)
        table = chance.choice(_TABLES)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        rows = connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall()
        number, *values = chance.choice(rows)
        column = chance.randrange(len(columns))
        value = _other(chance, values[column])
        try:
            with connection:
                statement = f"UPDATE {table} SET {columns[column]} = ? WHERE rowid = ?"
                connection.execute(statement, (value, number))
        except sqlite3.IntegrityError:  # the database itself would not have it
            return "nothing", data
        what = f"{columns[column]} of row {number} of {table} is {value!r} instead of {values[column]!r}"
        return what, connection.serialize()


def _other(chance: Random, value: object) -> object:
    if isinstance(value, int):
        return value ^ (1 << chance.randrange(20))
    if isinstance(value, str) and value:
        at = chance.randrange(len(value))
        return value[:at] + chr(ord(value[at]) ^ (1 << chance.randrange(3))) + value[at + 1 :]
    return chance.choice((0, 1, "x"))

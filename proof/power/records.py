# SPDX-License-Identifier: Apache-2.0
"""What is recorded: changes of files and directories, what made them durable, and notes, in one order.

A file or directory is a number, given when it was made and never again; 0 is the root.  Reading and looking
leave no record.
"""

import pickle
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, NamedTuple

ROOT = 0
NOTES = ".notes"
"""A file in the root: what is written to it becomes a note, in its place among all that happens."""


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Zero(NamedTuple):
    """The range reads as zeros: a hole was punched, or space allocated; ``grows`` to the end of the range."""

    file: int
    offset: int
    length: int
    grows: bool


class Truncate(NamedTuple):
    file: int
    size: int


class Sync(NamedTuple):
    """fsync or fdatasync of a file, or fsync of a directory."""

    file: int


class Name(NamedTuple):
    """Names came and went, all at once: (directory, name, what it names now or None)."""

    changes: tuple[tuple[int, str, int | None], ...]
    makes_directory: bool = False


class Note(NamedTuple):
    """What a process wrote to NOTES."""

    text: str


Record = Write | Zero | Truncate | Sync | Name | Note


def save(file: IO[bytes], record: Record) -> None:
    pickle.dump(record, file, pickle.HIGHEST_PROTOCOL)


def load(path: Path) -> Iterator[Record]:
    """Give the records of a file that ``save`` wrote."""
    with path.open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


def without_syncs(records: Iterable[Record], pattern: str) -> Iterator[Record]:
    """Give the recording of an engine that does not sync the files or directories ``pattern`` names.

    What a proof that means something must find out.
    """
    paths = {ROOT: ""}
    for record in records:
        if isinstance(record, Name):
            for directory, name, number in record.changes:
                if number is not None:
                    paths[number] = f"{paths[directory]}/{name}"
        if not (isinstance(record, Sync) and fnmatchcase(paths[record.file], pattern)):
            yield record

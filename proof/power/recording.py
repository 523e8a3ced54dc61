# SPDX-License-Identifier: Apache-2.0
"""Recordings: one script, played on a recorded file system.

Recordings of one seed do the same things, but threads and processes get on as they do, so no two are alike.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fisk_core.dataplane.zygote import Zygote
from fisk_core.engine import Engine
from fisk_core.model import State
from proof.power.cuts import Choice, choices, left, moments
from proof.power.records import Note, Record, load
from proof.power.script import HOME, OTHER_HOME, SMALL, TINY, USUAL, Notes, Script, Shape

_MOUNT_SECONDS = 20
_STEPS = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of recording: how it begins, and what is done then."""

    name: str
    shape: Shape
    play: Callable[[Script], None]
    fresh: bool = False
    """cut from the making of the home on; otherwise there are some Fisks first"""
    checksum: bool = False
    """of data, in the default pool"""
    again: bool = False
    """it is cut somewhere, and recorded is how what is left is opened, finished and tidied"""


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of a recording; what is left after a cut is put where the recorder was mounted."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "m"

    @property
    def below(self) -> Path:
        return self.directory / "b"

    @property
    def records(self) -> Path:
        return self.directory / "records"

    @property
    def outside(self) -> Path:
        return self.directory / "t"

    def make(self) -> None:
        for path in (self.root, self.below, self.outside):
            path.mkdir(parents=True, exist_ok=True)


def _begin(script: Script) -> None:
    script.create()
    script.write()
    script.snapshot()


def _in_process(script: Script) -> None:
    things = (
        (script.write, 6), (script.snapshot, 2), (script.clone, 2), (script.group, 1), (script.delete, 2),
        (script.resize, 2), (script.revert, 2), (script.rename, 1), (script.create, 1), (script.tidy, 2),
        (script.import_image, 1),
    )  # fmt: skip
    _some(script, things)


def _served(script: Script) -> None:
    for _ in range(2):
        script.serve()
        script.random.choice((script.delete, script.tidy, script.clone))()


def _pools(script: Script) -> None:
    script.add_pool()
    things = (
        (script.write, 2), (script.move, 3), (script.import_image, 1), (script.create, 2),
        (script.snapshot, 2), (script.delete, 1), (script.tidy, 2),
    )  # fmt: skip
    _some(script, things)


def _rescan(script: Script) -> None:
    """The catalog is lost, and a home that knows nothing takes the pool over."""
    _in_process(script)
    script.engine.close()
    other = script.root / OTHER_HOME
    with Engine.open(other) as engine:
        engine.pools()
        pool = f"{HOME}/pools/default"
        with script.notes.doing("rescan", home=OTHER_HOME, pool="default", path=pool):
            engine.rescan("default", options={"path": str(script.root / pool)})


def _some(script: Script, things: tuple[tuple[Callable[[], object], int], ...]) -> None:
    for do in script.random.choices([do for do, _ in things], [weight for _, weight in things], k=_STEPS):
        do()


KINDS = (
    Kind("in process, tiny blocks", TINY, _in_process),
    Kind("served, tiny blocks", TINY, _served),
    Kind("a new home", TINY, _begin, fresh=True),
    Kind("served, checksums", TINY, _served, checksum=True),
    Kind("served, usual blocks", USUAL, _served),
    Kind("pools", SMALL, _pools),
    Kind("in process, small pages", SMALL, _in_process),
    Kind("in process, checksums", SMALL, _in_process, checksum=True),
    Kind("a lost catalog", TINY, _rescan),
    Kind("the boot after a cut, served", TINY, _served, again=True),
    Kind("the boot after a cut, in process", SMALL, _in_process, checksum=True, again=True),
)


def record(kind: Kind, seed: str, place: Place) -> list[Record]:
    """Play a recording and give it; raises what the script raises."""
    with _recorder(place) as root:
        notes = Notes(root)
        try:
            _play(kind, seed, place, notes)
        finally:
            notes.close()
    records = _collected(place)
    return _record_boot(records, random.Random(f"{seed} again"), place) if kind.again else records


def _play(kind: Kind, seed: str, place: Place, notes: Notes) -> None:
    root = place.root
    if kind.fresh:
        notes.begin("start", home=HOME)
    with Zygote() as zygote, Engine.open(root / HOME) as engine:
        script = Script(root, notes, random.Random(seed), kind.shape, engine, place.outside, zygote)
        if kind.checksum:
            engine.create_pool("default", options={"checksum": "crc32"})
        if not kind.fresh:
            _begin(script)
            script.create()
            engine.settle()
            notes.begin("start", home=HOME)
        kind.play(script)


def _collected(place: Place) -> list[Record]:
    found = list(load(place.records))
    shutil.rmtree(place.below)
    place.records.unlink()
    return found


def _record_boot(records: Sequence[Record], pick: random.Random, place: Place) -> list[Record]:
    """Record what a crash may interrupt once more; what was promised before the first one still is.

    Whole pages reach the medium the first time, for a block torn then is torn in every cut of the second.
    """
    position = pick.choice([now.position for now in moments(records)])
    now = next(each for each in moments(records) if each.position == position)
    choice = pick.choice(list(choices(now, 4, pick)))
    with _recorder(place) as root:
        left(now.medium, Choice(choice.name)).write_to(root)
        _sync_all(root)
        notes = Notes(root)
        try:
            for each in records[:position]:
                if isinstance(each, Note):
                    notes.repeat(each)
            _boot(root / now.promises.home)
        finally:
            notes.close()
    return _collected(place)


def _sync_all(root: Path) -> None:
    """Make all durable, as it is after a boot."""
    for path in (root, *root.rglob("*")):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _boot(home: Path) -> None:
    """Do what is done after a crash: finish what was begun, open every Fisk, give space back."""
    with Engine.open(home) as engine:
        engine.settle()
        for fisk in engine.list():
            with engine.open_disk(fisk.id, writable=fisk.state is State.LIVE):
                pass
        engine.settle()
        engine.collect()


@contextmanager
def _recorder(place: Place) -> Iterator[Path]:
    """Mount the recording file system; afterwards its records are complete."""
    place.make()
    command = [
        sys.executable,
        "-m",
        "proof.power.recorder",
        *map(str, (place.below, place.root, place.records)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _await_mount(place.root, process)
        yield place.root
    finally:
        if os.path.ismount(place.root):
            subprocess.run(["umount", place.root], check=True)
        _, said = process.communicate(timeout=_MOUNT_SECONDS)
        if said:
            sys.stderr.write(said.decode(errors="replace"))


def _await_mount(root: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _MOUNT_SECONDS
    while not os.path.ismount(root):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the recording file system was not mounted at {root}")
        time.sleep(0.01)

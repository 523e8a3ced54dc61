# SPDX-License-Identifier: Apache-2.0
"""File systems on attached Fisks, random operations on files, and a guest; workers are killed meanwhile."""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fisk_core.access.block import Block
from fisk_core.access.file import File
from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.model import Attachment
from proof.core import Context, Figure, ProofFailed, at_least, exactly, proof
from proof.directories import disk_directory
from proof.filesystems.fsx import Fsx
from proof.filesystems.mounting import KINDS, MIB, Kind, frozen, lacking, mounted, run
from proof.filesystems.population import Population, verify
from tests.fiskds import Fiskd, running
from tests.guests import Guest, guest, kill_worker

_SHARE = 0.85  # of the time; then all comes to its end
_LONGEST = 4.0  # times the time, where the machine has none for us
_WANTED = {"fsx": 20_000, "file systems": 4, "files": 200, "rounds": 1, "kills": 8}
_FSX_SIZE = 4 * MIB
_PATIENCE = 120.0  # seconds for the daemon to end
_OPTIONS: dict[str, Any] = {"workers": {"healthy_seconds": 0, "longest_pause": 0.1, "reader_linger": 0}}


@dataclass(slots=True)
class Scene:
    """A daemon, its client, and what happened so far."""

    context: Context
    fiskd: Fiskd
    engine: RemoteEngine
    counts: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    until: float = 0.0
    """when it is time to end, and when at the latest if a busy machine has not let us do enough"""
    latest: float = 0.0

    def wanted(self, what: str) -> int:
        """Give how many of these there must be."""
        return max(1, int(_WANTED[what] * min(1.0, self.context.seconds / 80)))

    def goes_on(self, *kinds: str) -> bool:
        """Whether there is time, or not enough of something yet."""
        now = time.monotonic()
        short = any(self.counts[what] < self.wanted(what) for what in kinds)
        return now < self.until or (now < self.latest and short)

    @contextmanager
    def attached(self, ref: str, access: str) -> Iterator[Attachment]:
        """Attach a Fisk; it is detached in the end."""
        made = self.engine.attach(ref, access=access)
        try:
            yield made
        finally:
            surely(lambda: self.engine.detach(made.id, force=True))

    def kill(self, fisk_id: str) -> None:
        """Kill the worker of a Fisk, if it is not just being started again."""
        with suppress(ValueError, ProcessLookupError, FiskError):
            kill_worker(self.engine, fisk_id)
            self.counts["kills"] += 1


def surely(work: Callable[[], object]) -> None:
    """Have it done, though the worker it needs may just be dying: it is done as a whole, or refused."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            work()
        except FiskError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.1)


@proof("filesystems", "ext4, XFS, fsx and a guest on Fisks whose workers die", seconds=80)
def filesystems(context: Context) -> list[Figure]:
    """Run all parts; the guest beside the others."""
    if missing := lacking():
        raise ProofFailed(f"install {', '.join(missing)}")
    with (
        disk_directory() as other,
        running(context.scratch / "h", patience=_PATIENCE, **_OPTIONS) as fiskd,
        RemoteEngine.open(fiskd.url) as engine,
    ):
        engine.create_pool("disk", options={"path": str(other / "pool")})
        if why := _unusable(context.scratch / "h"):
            raise ProofFailed(why)
        scene = Scene(context, fiskd, engine)
        began = time.monotonic()
        scene.until = began + _SHARE * context.seconds
        scene.latest = began + _LONGEST * context.seconds
        with guest_beside(scene) as machine, fsx_beside(scene), dying(scene, machine):
            populate(scene)
        if problems := engine.check().problems:
            raise ProofFailed("\n".join(each.message for each in problems))
    return _figures(scene)


def _unusable(home: Path) -> str | None:
    with Engine.open(home) as embedded:
        return Block(embedded).available() or File(embedded).available()


def _figures(scene: Scene) -> list[Figure]:
    names = {
        "fsx": "fsx operations",
        "file systems": "file systems checked and clean",
        "files": "durable files found right",
        "rounds": "rounds of the guest",
        "kills": "kills",
    }
    found = [at_least(name, scene.counts[what], scene.wanted(what)) for what, name in names.items()]
    return [exactly("mismatches", 0, 0), *found]


# fsx


@contextmanager
def fsx_beside(scene: Scene) -> Iterator[None]:
    """While the rest goes on: on the file of an attached Fisk, and on a file of an ext4 on another."""
    kind, chance = KINDS[0], scene.context.random
    scene.engine.create("raw", _FSX_SIZE)
    scene.engine.create("fsx", kind.size, pool="disk")
    with ExitStack() as stack:
        raw = stack.enter_context(scene.attached("raw", "file"))
        device = stack.enter_context(scene.attached("fsx", "block")).path
        assert raw.path is not None
        assert device is not None
        run(*kind.make, device)
        folder = stack.enter_context(mounted(kind, device, scene.context.scratch / "fsx"))
        on_fisk = Fsx(Path(raw.path), _FSX_SIZE, chance("fsx", "raw"), resizable=False)
        stack.callback(on_fisk.close)
        on_ext4 = Fsx(folder / "file", _FSX_SIZE, chance("fsx", "ext4"), resizable=True)
        stack.callback(on_ext4.close)
        with _working(scene, [on_fisk, on_ext4]):
            yield
    for fisk in ("raw", "fsx"):
        scene.engine.delete(fisk)


@contextmanager
def _working(scene: Scene, files: list[Fsx]) -> Iterator[None]:
    """Run each in a thread until it is time; then judge."""
    failures: list[Exception] = []

    def more() -> bool:
        scene.counts["fsx"] = sum(file.operations for file in files)
        return scene.goes_on("fsx") and not failures

    def work(file: Fsx) -> None:
        try:
            file.run(more)
        except Exception as exc:  # told below, by the thread that is waited for
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    for failure in failures:
        raise ProofFailed(f"seed {scene.context.seed}: {failure}") from failure
    for file in files:
        unknown = f", without {', '.join(sorted(file.unknown))}" if file.unknown else ""
        scene.context.say(f"{file.operations:,} operations on {file.path.name}{unknown}")


# Populated file systems


def populate(scene: Scene) -> None:
    """Round after round, each file system in turn."""
    for kind in itertools.cycle(KINDS):
        if not scene.goes_on("file systems", "files", "kills"):
            return
        one_round(scene, kind, scene.context.random(kind.name, next(scene.numbers)))


def one_round(scene: Scene, kind: Kind, chance: random.Random) -> None:
    """Fill a new file system, take snapshots of it, kill its worker, and look into the snapshots."""
    fisk = scene.engine.create(f"{kind.name}{next(scene.numbers)}", kind.size, pool="disk")
    taken = []
    with scene.attached(fisk.id, "block") as attachment:
        assert attachment.path is not None
        run(*kind.make, attachment.path)
        with mounted(kind, attachment.path, scene.context.scratch / "m") as folder:
            population = Population(folder, chance)
            population.start()
            try:
                for number in range(3):
                    time.sleep(chance.uniform(0.3, 1.2))
                    if chance.random() < 0.7:
                        scene.kill(fisk.id)
                    before = population.durable()
                    name = f"{fisk.name}-{number}"
                    _snapshot(scene, fisk.id, name, folder, freeze=number == 1)
                    taken.append((name, before, population.removed(), population.durable()))
            finally:
                population.stop()
            if population.failure:
                raise ProofFailed(f"{kind.name} failed under its files") from population.failure
        run(*kind.check, attachment.path)
        scene.counts["file systems"] += 1
    for name, before, removed, after in taken:
        _look_into(scene, kind, name, partial(verify, before=before, removed=removed, after=after))
        scene.engine.delete(name)
    scene.engine.delete(fisk.id)


def _snapshot(scene: Scene, ref: str, name: str, folder: Path, *, freeze: bool) -> None:
    with frozen(folder) if freeze else ExitStack():
        surely(lambda: scene.engine.snapshot(ref, name))
    scene.counts["snapshots"] += 1


def _look_into(scene: Scene, kind: Kind, name: str, look: Callable[[Path], tuple[int, list[str]]]) -> None:
    """Mount a clone, which replays its log as after a crash; then the checker finds nothing."""
    scene.engine.clone(name, f"{name}-c")
    with scene.attached(f"{name}-c", "block") as attachment:
        assert attachment.path is not None
        with mounted(kind, attachment.path, scene.context.scratch / "c", copy=True) as folder:
            right, wrong = look(folder)
        run(*kind.check, attachment.path)
    scene.engine.delete(f"{name}-c")
    if wrong:
        shown = "\n".join(wrong[:10])
        raise ProofFailed(f"{kind.name}, snapshot {name} (seed {scene.context.seed}):\n{shown}")
    scene.counts["files"] += right
    scene.counts["file systems"] += 1


# A guest


@contextmanager
def guest_beside(scene: Scene) -> Iterator[Guest]:
    """Run a guest while the rest goes on; in the end it must get through another round."""
    scene.engine.create("guest", 4 * MIB)
    folder = scene.context.scratch / "guest"
    folder.mkdir()
    with scene.attached("guest", "nbd") as attachment, guest(folder, attachment) as machine:
        yield machine
        machine.get_through(1)
        scene.counts["rounds"] = machine.rounds
    scene.engine.delete("guest")


@contextmanager
def dying(scene: Scene, machine: Guest) -> Iterator[None]:
    """Kill the workers of the guest, once it is at work, and of the files, every few seconds."""
    end = threading.Event()
    killer = threading.Thread(target=_kill, args=(scene, machine, end))
    killer.start()
    try:
        yield
    finally:
        end.set()
        killer.join()


def _kill(scene: Scene, machine: Guest, end: threading.Event) -> None:
    chance = scene.context.random("kills")
    with RemoteEngine.open(scene.fiskd.url) as engine:
        mine = replace(scene, engine=engine)
        ids = {name: engine.get(name).id for name in ("raw", "fsx", "guest")}
        while not end.wait(chance.uniform(1.5, 4)):
            name = chance.choice([*ids])
            if name != "guest" or machine.rounds:
                mine.kill(ids[name])

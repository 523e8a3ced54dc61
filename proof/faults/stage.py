# SPDX-License-Identifier: Apache-2.0
"""Where a scenario plays: a home directory, what each Fisk in it may hold, and what must not happen.

Every step may fail, with a typed error; then it took place as a whole or not at all, and the play goes on.
Where both are possible a Fisk has several oracles, of which one must agree at the end.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.engine import Engine
from fisk_core.errors import FiskError, NoSpace
from fisk_core.locks import Lock
from fisk_core.reports import Severity
from proof.faults.injector import SQLITE, Injector, explain
from proof.oracle import Oracle

BLOCK, PAGE = 512, 2048
TINY: dict[str, Any] = {"block_size": BLOCK, "page_size": PAGE}
SIZE = 64 << 10

T = TypeVar("T")


@dataclass
class Stage:
    """One play; ``base`` holds the home directory and other files."""

    base: Path
    injector: Injector = field(default_factory=Injector)
    fisks: dict[str, list[Oracle]] = field(default_factory=dict)
    """what each Fisk may hold, by name"""
    perhaps: set[str] = field(default_factory=set)
    """those that may be there, or not"""
    problems: list[str] = field(default_factory=list)
    lossy: set[str] = field(default_factory=set)
    """those of which what was not flushed may be lost, for a flush failed"""
    finish: Callable[[Engine], object] | None = None
    """done at the end, without faults, before anything is looked at"""
    failures: int = 0
    """steps that ended in a typed error"""
    counter: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def files(self) -> Path:
        return self.base / "files"

    def count(self, what: str, number: int) -> None:
        """Add to what is counted."""
        self.counts[what] = self.counts.get(what, 0) + number

    def blame(self, text: str) -> None:
        self.problems.append(text)

    def fill(self, length: int) -> bytes:
        """Give bytes that were never given before."""
        self.counter += 1
        return (self.counter.to_bytes(4, "little") * (length // 4 + 1))[:length]

    # Steps

    def attempt(self, what: str, call: Callable[[], T]) -> tuple[bool, T | None]:
        """Make a step; says whether it succeeded, and gives what it gave."""
        was_met = self.injector.met
        try:
            return True, call()
        except FiskError as exc:
            self.failures += 1
            kind = self.injector.fault.kind if self.injector.fault else ""
            if (
                not was_met
                and self.injector.met
                and kind in ("ENOSPC", "EDQUOT")
                and exc.errno != NoSpace.errno
                and (
                    self.injector.fault is not None
                    and self.injector.fault.site.file != SQLITE  # which tells ENOSPC of write(2) only
                )
            ):
                self.blame(f"{what} failed for want of space and said: {explain(exc)}")
        except Exception as exc:  # the very thing that must not come out
            self.blame(f"{what} raised {explain(exc)}")
        return False, None

    @contextmanager
    def injecting(self, on: bool) -> Iterator[None]:
        """Have calls counted and failed meanwhile, or not."""
        was, self.injector.active = self.injector.active, on
        try:
            yield
        finally:
            self.injector.active = was

    def refused(self, what: str, call: Callable[[], object]) -> None:
        """Ask for what cannot be; it must be refused, with a typed error."""
        if self.attempt(what, call)[0]:
            self.blame(f"{what} was not refused")
        self.failures -= 1

    @contextmanager
    def engine(self) -> Iterator[Engine | None]:
        """Open the engine and close it; None where that failed."""
        _, engine = self.attempt("opening the engine", lambda: Engine.open(self.home))
        try:
            yield engine
        finally:
            if engine is not None:
                self.attempt("closing the engine", engine.close)

    @property
    def sync_failed(self) -> bool:
        """Say whether it was an fsync that failed: then what was not flushed may be lost."""
        fault = self.injector.fault
        return self.injector.met and fault is not None and "sync" in fault.site.call

    # Fisks

    def hold(self, name: str, *oracles: Oracle, certain: bool) -> None:
        """There is a Fisk now, or, unless ``certain``, there may be."""
        self.fisks[name] = list(oracles)
        if certain:
            self.perhaps.discard(name)
        else:
            self.perhaps.add(name)

    def create(self, engine: Engine, name: str, size: int = SIZE, **more: Any) -> bool:
        done, _ = self.attempt(f"create {name}", lambda: engine.create(name, size, **TINY, **more))
        self.hold(name, Oracle(size, BLOCK), certain=done)
        return done

    def copy(self, what: str, source: str, name: str, call: Callable[[], object]) -> bool:
        """Make the snapshot or clone ``name``."""
        taken = [each.twin() for each in self.fisks[source]]
        done, _ = self.attempt(f"{what} {name}", call)
        if source in self.lossy:
            self.lossy.add(name)
        self.hold(name, *taken, certain=done and source not in self.perhaps)
        return done

    def snapshot(self, engine: Engine, source: str, name: str) -> bool:
        return self.copy("snapshot", source, name, lambda: engine.snapshot(source, name))

    def clone(self, engine: Engine, source: str, name: str) -> bool:
        return self.copy("clone", source, name, lambda: engine.clone(source, name))

    def delete(self, engine: Engine, name: str, **more: bool) -> bool:
        done, _ = self.attempt(f"delete {name}", lambda: engine.delete(name, **more))
        if done:
            del self.fisks[name]
            self.perhaps.discard(name)
        else:
            self.perhaps.add(name)
        return done

    def resize(self, engine: Engine, name: str, size: int, **more: Any) -> bool:
        done, _ = self.attempt(f"resize {name}", lambda: engine.resize(name, size, **more))
        changed = [each.twin() for each in self.fisks[name]]
        for each in changed:
            each.resize(size)
        self.fisks[name] = changed if done else [*self.fisks[name], *changed]
        return done

    def revert(self, engine: Engine, name: str, to: str) -> bool:
        taken = [each.twin() for each in self.fisks[to]]
        if to in self.lossy:
            self.lossy.add(name)
        done, _ = self.attempt(f"revert {name}", lambda: engine.revert(name, to))
        self.fisks[name] = taken if done else [*self.fisks[name], *taken]
        return done

    @contextmanager
    def writing(self, engine: Engine, name: str) -> "Iterator[Drive | None]":
        """Open a Fisk for writing, and close it; None where that failed."""
        _, disk = self.attempt(f"open {name}", lambda: engine.open_disk(name, writable=True))
        if disk is None:
            yield None
            return
        drive = Drive(self, name, disk)
        try:
            yield drive
        finally:
            drive.close()

    # The end

    def verify(self) -> None:
        """Open everything once more, without faults, and look at all there is."""
        self.injector.active = False
        with Engine.open(self.home) as engine:
            if self.finish is not None:
                self.finish(engine)
            engine.settle()
            self._check(engine)
            names = {fisk.name for fisk in engine.list()}
            for name in sorted(names - set(self.fisks)):
                self.blame(f"there is a Fisk {name} that nobody made")
            for name in sorted(set(self.fisks) - names - self.perhaps):
                self.blame(f"the Fisk {name} is gone")
            for name in sorted(names & set(self.fisks)):
                self._compare(engine, name)
            engine.collect()
            for name in sorted(names & set(self.fisks)):
                self._compare(engine, name)

    def _check(self, engine: Engine) -> None:
        for problem in engine.check().problems:
            if problem.severity is Severity.ERROR:
                self.blame(f"check: {problem.kind} {problem.subject}: {problem.message}")
        engine.check(repair=True)
        for problem in engine.check().problems:
            self.blame(f"check after repair: {problem.kind} {problem.subject}: {problem.message}")

    def _compare(self, engine: Engine, name: str) -> None:
        with engine.open_disk(name) as disk:
            found = disk.read(0, disk.size)
        wrong: list[str] = []
        for oracle in self.fisks[name]:
            if oracle.size != len(found):
                wrong.append(f"{len(found)} bytes instead of {oracle.size}")
                continue
            mismatches = oracle.compare(found, crashed=name in self.lossy)
            if not mismatches:
                return
            wrong.append(f"{len(mismatches)} blocks: {mismatches[0]}")
        self.blame(f"Fisk {name}: {'; or '.join(wrong)}")


class Drive:
    """An open disk and what it may hold."""

    def __init__(self, stage: Stage, name: str, disk: Disk) -> None:
        self.stage, self.name, self.disk = stage, name, disk
        self.broken = False
        """a flush failed"""
        if name in stage.lossy:
            self._find_out()

    def _find_out(self) -> None:
        """See what was left after a flush failed; that counts from now on."""
        active, self.stage.injector.active = self.stage.injector.active, False
        found = self.disk.read(0, self.disk.size)
        left = [
            each for each in self.oracles if each.size == len(found) and not each.compare(found, crashed=True)
        ]
        if left:
            left[0].restart(found, durable=False)
            self.stage.fisks[self.name] = left[:1]
            self.stage.lossy.discard(self.name)
        else:
            self.stage.blame(f"{self.name} was opened again and holds what it must not: {self._why(found)}")
        self.stage.injector.active = active

    def _why(self, found: bytes) -> str:
        same = [each for each in self.oracles if each.size == len(found)]
        return "; or ".join(str(each.compare(found, crashed=True)[0]) for each in same) or "another size"

    @property
    def oracles(self) -> list[Oracle]:
        return self.stage.fisks[self.name]

    def _change(self, what: str, begin: Callable[[Oracle], Any], call: Callable[[], object]) -> bool:
        begun = [(oracle, begin(oracle)) for oracle in self.oracles]
        done, _ = self.stage.attempt(f"{what} {self.name}", call)
        for oracle, change in begun:
            if done:
                oracle.end(change)
            else:
                oracle.fail(change)
        if done and self.broken:
            self.stage.blame(f"{what} succeeded on {self.name} after a flush of it had failed")
        self._notice()
        return done

    def _notice(self) -> None:
        """A change may flush, too."""
        if self.disk.failed is not None:
            self.broken = True
            self.stage.lossy.add(self.name)

    def write(self, offset: int, length: int) -> bool:
        data = self.stage.fill(length)
        return self._change(
            "write to", lambda o: o.write(offset, data), lambda: self.disk.write(offset, data)
        )

    def zero(self, offset: int, length: int, *, allocate: bool = False) -> bool:
        return self._change(
            "zero", lambda o: o.zero(offset, length), lambda: self.disk.write_zeroes(offset, length, allocate)
        )

    def trim(self, offset: int, length: int) -> bool:
        return self._change("trim", lambda o: o.trim(offset, length), lambda: self.disk.trim(offset, length))

    def flush(self) -> bool:
        begun = [(oracle, oracle.flush()) for oracle in self.oracles]
        done, _ = self.stage.attempt(f"flush {self.name}", self.disk.flush)
        if done and self.broken:
            self.stage.blame(f"a flush of {self.name} succeeded after one had failed")
        if not done and self.disk.failed is None:
            self.stage.blame(f"a flush of {self.name} failed, and the disk does not say so")
        for oracle, flush in begun:
            if done:
                oracle.end_flush(flush)
        self._notice()
        return done

    def read(self, offset: int = 0, length: int | None = None) -> None:
        """Read, and compare with what was acknowledged."""
        count = self.disk.size - offset if length is None else length
        done, data = self.stage.attempt(f"read {self.name}", lambda: self.disk.read(offset, count))
        if not done or data is None or (offset, count) != (0, self.disk.size):
            return
        if all(oracle.compare(data, crashed=self.broken) for oracle in self.oracles if oracle.size == count):
            self.stage.blame(f"{self.name} reads as it must not while it is open: {self._why(data)}")

    def close(self) -> None:
        begun = [(oracle, oracle.flush()) for oracle in self.oracles]
        done, _ = self.stage.attempt(f"close {self.name}", self.disk.close)
        if done and not self.disk.failed:
            for oracle, flush in begun:
                oracle.end_flush(flush)
        self._notice()


@contextmanager
def serving(engine: Engine, name: str, lock: Lock | None = None) -> Iterator[Worker]:
    """Serve a Fisk from a worker that is a process of its own, at its usual sockets; raises FiskError."""
    with lock or engine.acquire(name, True) as held:
        fisk, home = engine.get(name), engine.home
        unix, control = str(home.socket(fisk.id)), str(home.control(fisk.id))
        options = ServeOptions(unix=unix, control=control, announce=True)
        worker = start_worker(engine.disk_spec(fisk, False), lock_fd=held.fd, options=options)
    with worker:
        yield worker


def descriptors() -> dict[str, int]:
    """Give what this process has open, and how often."""
    found: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the listing itself
            target = os.readlink(f"/proc/self/fd/{name}")
            found[target] = found.get(target, 0) + 1
    return found

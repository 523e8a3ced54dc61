# SPDX-License-Identifier: Apache-2.0
"""What is shown: one disk as image, volume, snapshot and image again, through the ``fisk`` command.

Every step states what it expects; the first expectation not met ends the demonstration with DemoFailed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.disk import SIZE, build_disk
from demo.guest import Guest
from demo.run import DemoFailed, Processes, call, expect, wait_for

CLONES = 100
IMAGE, VOLUME, SNAPSHOT, SECOND = "debian", "vm-1", "vm-1-running", "again"
FIRST_UNTOUCHED, LAST_UNTOUCHED = "vm-2", f"vm-{CLONES}"
_TICKS = 3


@dataclass(frozen=True)
class Step:
    """One line of the closing table; ``stored`` and ``copies`` are bytes at the end of the step."""

    title: str
    seconds: float
    stored: int
    copies: int


class Story:
    """The demonstration.  ``directory`` is its scratch space, ``cache`` keeps the kernel package."""

    def __init__(
        self, directory: Path, cache: Path, processes: Processes, say: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self.cache = cache
        self.processes = processes
        self.say = say
        self.steps: list[Step] = []
        self._fisks = 0
        self._home = directory / "home"
        self._disk = directory / "debian.qcow2"
        self._ticks_before_snapshot = 0

    def tell(self) -> None:
        """Run all steps in order; raises DemoFailed."""
        for step in (
            self.build,
            self.import_image,
            self.clone_many,
            self.boot_and_snapshot,
            self.boot_again_and_delete_the_image,
            self.revert_and_boot,
            self.promote_and_clone,
            self.verify_every_byte,
            self.check,
        ):
            title = (step.__doc__ or "").rstrip(".")
            self.say(title)
            start = time.monotonic()
            step()
            took = time.monotonic() - start
            self.steps.append(Step(title, took, self._stored(), self._fisks * SIZE))

    def build(self) -> None:
        """Build a bootable disk from Debian packages, as qcow2."""
        build_disk(self._disk, self.cache, self.directory / "build")

    def import_image(self) -> None:
        """Import it as an image."""
        self._fisk("import", str(self._disk), IMAGE)
        self._fisks += 1

    def clone_many(self) -> None:
        """Make 100 linked clones of the image."""
        before = self._stored()
        self._fisk("clone", IMAGE, "vm", "--count", str(CLONES))
        self._fisks += CLONES
        grown = self._stored() - before
        expect(grown < SIZE, f"{CLONES} clones took {grown} bytes in the pool: more than one full copy")

    def boot_and_snapshot(self) -> None:
        """Boot one clone over NBD, and snapshot it while it runs and writes."""
        with self._running(VOLUME, boot=1) as guest:
            self._ticks_before_snapshot = guest.wait_for_number("tick", at_least=_TICKS)
            self._fisk("snapshot", VOLUME, SNAPSHOT)
            self._fisks += 1
            guest.wait_for_number("tick", at_least=self._ticks_before_snapshot + 2)
        self._fisk("download", SNAPSHOT, str(self._file(SNAPSHOT)))

    def boot_again_and_delete_the_image(self) -> None:
        """Boot it a second time; delete the image while it runs and its siblings live."""
        with self._running(VOLUME, boot=2) as guest:
            found = guest.wait_for_number("found")
            expect(
                found >= self._ticks_before_snapshot + 2,
                f"the disk lost writes: {found} ticks found, {self._ticks_before_snapshot + 2} seen before",
            )
            self._fisk("delete", IMAGE)
            self._fisks -= 1
            guest.wait_for_number("tick", at_least=found + 2)
        self._disk_equals(FIRST_UNTOUCHED, self._disk, "qcow2")

    def revert_and_boot(self) -> None:
        """Revert to the snapshot and boot: the count of the snapshot + 1."""
        self._fisk("revert", VOLUME, SNAPSHOT)
        self._disk_equals(VOLUME, self._file(SNAPSHOT), "raw")
        with self._running(VOLUME, boot=2) as guest:
            self._expect_snapshot_ticks(guest)

    def promote_and_clone(self) -> None:
        """Promote the snapshot to an image, clone that, and boot the clone."""
        self._fisk("set", SNAPSHOT, "--role", "image")
        self._fisk("clone", SNAPSHOT, SECOND)
        self._fisks += 1
        self._disk_equals(SECOND, self._file(SNAPSHOT), "raw")
        with self._running(SECOND, boot=2) as guest:
            self._expect_snapshot_ticks(guest)

    def verify_every_byte(self) -> None:
        """Compare every byte: untouched clones, and the snapshot after all of this."""
        name = LAST_UNTOUCHED
        self._fisk("download", name, str(self._file(name)))
        self._same(self._disk, "qcow2", self._file(name), f"download of {name}")
        self._disk_equals(name, self._disk, "qcow2")
        self._disk_equals(SNAPSHOT, self._file(SNAPSHOT), "raw")

    def check(self) -> None:
        """Check every invariant of catalog, maps and layers."""
        problems = json.loads(self._fisk("check", "-f", "json"))
        expect(not problems, f"fisk check found: {problems}")
        found = len(json.loads(self._fisk("list", "-f", "json")))
        expect(found == self._fisks, f"{found} Fisks are listed, there should be {self._fisks}")

    def _expect_snapshot_ticks(self, guest: Guest) -> None:
        found = guest.wait_for_number("found")
        first, last = self._ticks_before_snapshot, self._ticks_before_snapshot + 1
        expect(first <= found <= last, f"{found} ticks found, the snapshot was taken after tick {first}")

    def _fisk(self, *words: str) -> str:
        start = time.monotonic()
        said = call([_program(), *words], env=self._environment())
        took = time.monotonic() - start
        self.say(f"  $ fisk {' '.join(words)}  ({took:.2f} s)".replace(f"{self.directory}/", ""))
        return said

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "FISK_HOME": str(self._home)}

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.raw"

    @contextmanager
    def _served(self, name: str) -> Iterator[str]:
        """Serve the Fisk ``name`` with ``fisk serve``; gives its NBD URI."""
        log = self.directory / f"{name}.log"
        command = (_program(), "serve", name)
        server = self.processes.start(command, log=log, env=self._environment())

        def address() -> str | None:
            said = log.read_text()
            if server.poll() is not None:
                raise DemoFailed(f"`fisk serve {name}` ended: {said.strip() or 'it said nothing'}")
            line, newline, _ = said.partition("\n")
            return line.strip() if newline else None

        yield wait_for(address, f"`fisk serve {name}` prints its URI", 30)
        status = self.processes.stop(server)
        expect(status == 0, f"`fisk serve {name}` ended with status {status}: {log.read_text().strip()}")

    @contextmanager
    def _running(self, name: str, *, boot: int) -> Iterator[Guest]:
        """Boot the Fisk ``name``, expect the boot count ``boot``; power off in the end."""
        with self._served(name) as uri:
            self.say(f"  $ fisk serve {name}: {uri}".replace(f"{self.directory}/", ""))
            guest = Guest(self.processes, uri, self.directory)
            found = guest.wait_for_number("boot")
            expect(found == boot, f"the console of {name} says 'boot {found}' instead of 'boot {boot}'")
            self.say(f"  console: boot {found}")
            yield guest
            guest.power_off()

    def _disk_equals(self, name: str, file: Path, file_format: str) -> None:
        with self._served(name) as uri:
            self._same(file, file_format, uri, f"NBD export of {name}")

    def _same(self, file: Path, file_format: str, other: Path | str, what: str) -> None:
        call(["qemu-img", "compare", "-f", file_format, "-F", "raw", file, other])
        self.say(f"  identical: {file.name} = {what}")

    def _stored(self) -> int:
        """Give the bytes all pools take on the disk."""
        files = (self._home / "pools").rglob("*")
        return sum(file.lstat().st_blocks * 512 for file in files if file.is_file())


def _program() -> Path:
    program = Path(sys.executable).with_name("fisk")
    if not program.exists():
        raise DemoFailed(f"{program} is not there; run this with the Python of the checkout's .venv")
    return program

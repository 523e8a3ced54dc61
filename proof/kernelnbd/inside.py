# SPDX-License-Identifier: Apache-2.0
"""What happens inside the guest: ``python -m proof.kernelnbd.inside SEED SECONDS``, as root.

Each step prints ``step NAME SECONDS``, each figure ``figure NAME VALUE``; at the end stands ``PASSED``, or
what went wrong.  ``SECONDS`` are for killing.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fisk_core.client import RemoteEngine
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import InUse
from fisk_core.model import Attachment
from proof.kernelnbd.host import Daemon, Device, expect, run, until
from proof.kernelnbd.load import Load
from tests.fiskds import configure

MIB = 1 << 20
SIZE = 32 * MIB
HOME, MOUNT = Path("/dev/shm/home"), Path("/run/mounted")
VICTIMS = (("worker",), ("keeper", "worker"), ("daemon",), ("daemon", "worker"))
LAST = b"written last" * 9999
_TELLING = 2500  # bytes of each log that are shown when something went wrong


class Story:
    """One disk, from its first attachment to its last."""

    def __init__(self, seed: int, seconds: float) -> None:
        self._random, self._seconds = random.Random(seed), seconds
        configure(HOME, {})
        self.fiskd = Daemon(HOME)
        self.client = RemoteEngine.open(self.fiskd.url)
        self.kills = self.blocks = 0
        self.attachment: Attachment
        self.device: Device
        self.load: Load

    def steps(self) -> Iterator[Callable[[], None]]:
        """Give the steps, in their order."""
        yield from (self.start, self.attach, self.make_a_file_system, self.detach_while_mounted)
        yield from (self.upgrade, self.kill, self.snapshot, self.resize, self.unmount)
        yield from (self.detach_while_open, self.detach, self.read_a_snapshot, self.discard)
        yield from (self.force_while_open, self.force_while_the_worker_stands, self.end)

    def start(self) -> None:
        self.fiskd.start()
        self.client.create("disk", SIZE)

    def attach(self) -> None:
        expect(not Path("/sys/module/nbd").exists(), "the kernel's client is not loaded yet")
        self._attach("disk")
        device = self.device
        expect(device.path.name.startswith("nbd"), f"{device.path} is one of the kernel's client")
        expect(device.size == SIZE, f"it has the Fisk's size, and not {device.size}")
        expect(device["queue/write_cache"] == "write back", "it is told to flush")
        expect(device["queue/fua"] == "1", "it knows writes with FUA")
        expect(device["queue/logical_block_size"] == "512", "its blocks have 512 bytes")

    def _attach(self, ref: str, **options: object) -> None:
        self.attachment = self.client.attach(
            ref, access="block", read_only=ref != "disk", options=options or None
        )
        self.device = Device(self.attachment.path)

    def _detach(self) -> None:
        directory = self.device.kept.directory
        self.client.detach(self.attachment.id)
        self._expect_gone(directory)

    def _expect_gone(self, directory: Path) -> None:
        expect(self.device.size == 0, "the device is empty")
        expect(not self.device["backend"], "the device is nobody's")
        expect(not directory.exists(), "nothing of the attachment is left")

    def _expect_in_use(self) -> None:
        try:
            self.client.detach(self.attachment.id)
        except InUse:
            expect(self.device.kept.alive, "nothing was taken away")
        else:
            raise AssertionError("what is in use was detached")

    def make_a_file_system(self) -> None:
        run("mkfs.ext4", "-q", "-b", "4096", self.device.path)
        MOUNT.mkdir()
        run("mount", self.device.path, MOUNT)
        self.load = Load(MOUNT / "file", 4 * MIB, self._random.random())
        self.load.get_through(50)

    def detach_while_mounted(self) -> None:
        self._expect_in_use()
        self.load.get_through(20)

    def upgrade(self) -> None:
        expect(self.client.upgrade() == 1, "the worker hands its connection to a successor")
        self.load.get_through(20)

    def kill(self) -> None:
        """Kill each in turn, and, as long as there is time, any."""
        deadline = time.monotonic() + self._seconds
        rounds = list(VICTIMS)
        self._random.shuffle(rounds)
        while rounds or time.monotonic() < deadline:
            self._kill(rounds.pop() if rounds else self._random.choice(VICTIMS))
            self.load.get_through(100)
            until(lambda: self.device.kept.alive, "a keeper is there again")
            expect([each.path for each in self.client.attachments()] == [str(self.device.path)], "as it was")

    def _kill(self, victims: tuple[str, ...]) -> None:
        if "keeper" in victims:
            self.device.kill_keeper()
        if "worker" in victims:
            os.kill(self._worker(), signal.SIGKILL)
        if "daemon" in victims:
            self.fiskd.kill()
            if victims == ("daemon",):
                self.load.get_through(50)  # nobody needs it
            self.fiskd.start()
        self.kills += len(victims)

    def _worker(self) -> int:
        """Give the process id of the worker of our attachment."""
        ours = self.attachment.fisk_id
        [worker] = [each for each in self.client.workers() if each["fisk_id"] == ours]
        return int(worker["pid"])

    def snapshot(self) -> None:
        self.client.snapshot("disk", "snap")
        self.load.get_through(20)

    def resize(self) -> None:
        self.client.resize("disk", 2 * SIZE)
        until(lambda: self.device.size == 2 * SIZE, "the device grows")
        run("resize2fs", self.device.path)
        self.load.get_through(20)

    def unmount(self) -> None:
        self.blocks = self.load.stop()
        run("umount", MOUNT)
        run("fsck.ext4", "-f", "-n", self.device.path)

    def detach_while_open(self) -> None:
        with self.device.path.open("rb"):
            self._expect_in_use()

    def detach(self) -> None:
        with self.device.path.open("r+b") as file:
            file.seek(SIZE)
            file.write(LAST)  # and no flush
        self._detach()

    def read_a_snapshot(self) -> None:
        self._attach("snap", sector_size=4096, backend="nbd")
        expect(run("blockdev", "--getro", self.device.path) == "1", "the device is read-only")
        expect(self.device["queue/logical_block_size"] == "4096", "its blocks have 4096 bytes")
        with NbdClient.connect(self.attachment.uris[0]) as client, self.device.path.open("rb") as file:
            expect(file.read(MIB) == client.read(0, MIB) != bytes(MIB), "it has the snapshot's content")
        self._detach()

    def discard(self) -> None:
        self._attach("disk")
        with self.device.path.open("rb") as file:
            file.seek(SIZE)
            expect(file.read(len(LAST)) == LAST, "what was written last is there")
        run("blkdiscard", "-f", self.device.path)
        self._detach()
        expect(self.client.usage("disk").referenced == 0, "a discarded disk owns nothing")

    def force_while_open(self) -> None:
        self._attach("disk")
        directory = self.device.kept.directory
        with self.device.path.open("rb"):
            self.client.detach(self.attachment.id, force=True)
        self._expect_gone(directory)

    def force_while_the_worker_stands(self) -> None:
        """The kernel's requests fill the socket of a worker that takes none; nobody may wait for that."""
        self._attach("disk")
        directory = self.device.kept.directory
        worker = self._worker()
        os.kill(worker, signal.SIGSTOP)
        words = ["dd", "if=/dev/zero", f"of={self.device.path}", "bs=1M", "count=16", "oflag=direct"]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as writer, ThreadPoolExecutor() as others:
            until(lambda: sum(map(int, self.device["inflight"].split())) > 0, "requests are under way")
            detached = others.submit(self.client.detach, self.attachment.id, force=True)
            until(lambda: not directory.exists(), "the device is given up, though the worker stands")
            os.kill(worker, signal.SIGCONT)  # whoever detaches waits for its end, for a while
            detached.result()
            expect(writer.wait() != 0, "who wrote is told")
        until(lambda: self.device.size == 0, "the device is empty")
        self._expect_gone(directory)

    def end(self) -> None:
        self.client.close()
        self.fiskd.drain()
        with Engine.open(HOME) as engine:
            expect(engine.check().problems == [], "the home is in order")

    def tell(self) -> None:
        """Show what may explain a failure."""
        for path in (self.fiskd.log_path, *HOME.glob("run/access/*/nbd.log")):
            if path.exists():
                print(path, path.read_text()[-_TELLING:], sep="\n", flush=True)
        print(run("dmesg")[-_TELLING:], flush=True)


def main() -> int:
    started = time.monotonic()
    story = Story(int(sys.argv[1]), float(sys.argv[2]))
    count = 0
    try:
        for step in story.steps():
            step()
            count += 1
            print(f"step {step.__name__} {time.monotonic() - started:.1f}", flush=True)
            started = time.monotonic()
    except Exception:  # whatever it is, whoever looks at the console must see it
        print(traceback.format_exc(), flush=True)
        story.tell()
        return 1
    for name in ("kills", "blocks"):
        print(f"figure {name} {getattr(story, name)}")
    print(f"figure steps {count}\nPASSED", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

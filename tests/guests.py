# SPDX-License-Identifier: Apache-2.0
"""Machines for tests: a guest in QEMU that writes its whole disk and verifies it, round after round."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.disk import KERNEL_ARGUMENTS
from demo.initramfs import build_initramfs
from demo.kernel import fetch_kernel
from fisk_core.client import RemoteEngine
from fisk_core.model import Attachment

CACHE = Path(__file__).resolve().parents[1] / ".work" / "cache"
RECONNECT_SECONDS = 60
PATIENCE = 120


class Guest:
    """A machine that has the Fisk as its disk; QEMU reconnects when its server goes away."""

    def __init__(
        self, folder: Path, disk: str, boots: tuple[Path, Path] | None = None, more: Sequence[str] = ()
    ) -> None:
        """Start it with the block device ``disk``; ``boots``: kernel and initramfs of another one."""
        self.boots = boots or prepare(folder)
        kernel, initramfs = self.boots
        self._console, self._log = folder / "console", folder / "qemu.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "192", "-nodefaults",
                 "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{self._console}",
                 "-kernel", str(kernel), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS,
                 "-blockdev", disk, "-device", "virtio-blk-pci,drive=disk", *more],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def rounds(self) -> int:
        """How often the whole disk was written and found right."""
        found = re.findall(r"^round (\d+)", self.console, re.MULTILINE)
        return int(found[-1]) if found else 0

    def get_through(self, more: int, since: int | None = None) -> None:
        """Wait until it got so many rounds further, than now or than ``since``, all of them right."""
        deadline, wanted = time.monotonic() + PATIENCE, (self.rounds if since is None else since) + more
        while self.rounds < wanted:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self.console
            time.sleep(0.05)
        assert "WRONG" not in self.console, self.console
        assert "FAILED" not in self.console, self.console


def prepare(folder: Path) -> tuple[Path, Path]:
    """Give a kernel, and an initramfs that verifies the disk."""
    kernel = fetch_kernel(CACHE, folder)
    init = Path(__file__).resolve().parent / "verifying_guest.sh"
    return kernel.image, build_initramfs(kernel, folder, init, ["virtio_pci", "virtio_blk"])


def disk_of(attachment: Attachment) -> str:
    """Give QEMU's block device of what is attached."""
    if attachment.path:
        return f"driver=host_device,node-name=disk,filename={attachment.path},cache.direct=on"
    path = attachment.uris[0].partition("?socket=")[2]
    export = attachment.uris[0].partition("?")[0].rpartition("/")[2]
    server = f"driver=nbd,node-name=disk,server.type=unix,server.path={path},export={export}"
    return f"{server},reconnect-delay={RECONNECT_SECONDS}"


@contextmanager
def guest(
    folder: Path,
    attachment: Attachment,
    boots: tuple[Path, Path] | None = None,
    more: Sequence[str] = (),
) -> Iterator[Guest]:
    """Run a guest whose disk is what is attached; what it needs is made in ``folder``."""
    machine = Guest(folder, disk_of(attachment), boots, more)
    try:
        yield machine
    finally:
        machine.process.kill()
        machine.process.wait()


def kill_worker(client: RemoteEngine, fisk_id: str | None = None) -> None:
    """Kill the worker of a Fisk, or the only one there is."""
    [worker] = [each for each in client.workers() if fisk_id in (None, each["fisk_id"])]
    os.kill(worker["pid"], signal.SIGKILL)

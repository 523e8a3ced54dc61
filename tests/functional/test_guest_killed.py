# SPDX-License-Identifier: Apache-2.0
"""A guest in QEMU writes and verifies its disk while what serves it is killed, again and again."""

import os
import random
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.disk import KERNEL_ARGUMENTS
from demo.initramfs import build_initramfs
from demo.kernel import fetch_kernel
from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from tests.engines import MIB
from tests.fiskds import running

CACHE = Path(__file__).resolve().parents[2] / ".work" / "cache"
RECONNECT_SECONDS = 60
PATIENCE = 120


class Guest:
    """A machine that has the Fisk as its disk; QEMU reconnects when its server goes away."""

    def __init__(self, folder: Path, uri_path: str, export: str) -> None:
        kernel = fetch_kernel(CACHE, folder)
        init = Path(__file__).resolve().parents[1] / "verifying_guest.sh"
        initramfs = build_initramfs(kernel, folder, init, ["virtio_pci", "virtio_blk"])
        self._console, self._log = folder / "console", folder / "qemu.log"
        disk = f"driver=nbd,node-name=disk,server.type=unix,server.path={uri_path},export={export}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "192", "-nodefaults",
                 "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{self._console}",
                 "-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS,
                 "-blockdev", f"{disk},reconnect-delay={RECONNECT_SECONDS}",
                 "-device", "virtio-blk-pci,drive=disk"],
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

    def get_through(self, more: int) -> None:
        """Wait until it got so many rounds further, all of them right."""
        deadline, wanted = time.monotonic() + PATIENCE, self.rounds + more
        while self.rounds < wanted:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self.console
            time.sleep(0.05)
        assert "WRONG" not in self.console, self.console
        assert "FAILED" not in self.console, self.console


@contextmanager
def guest(folder, attachment):
    path = attachment.uris[0].partition("?socket=")[2]
    export = attachment.uris[0].partition("?")[0].rpartition("/")[2]
    machine = Guest(folder, path, export)
    try:
        yield machine
    finally:
        machine.process.kill()
        machine.process.wait()


def kill_worker(client):
    [worker] = client.workers()
    os.kill(worker["pid"], signal.SIGKILL)


@pytest.mark.timeout(600)
def test_a_guest_sees_nothing_of_what_dies_below_it(home, tmp_path):
    chance = random.Random(29)
    with running(home) as fiskd, RemoteEngine.open(fiskd.url) as client:
        client.create("disk", 4 * MIB)
        with guest(tmp_path, client.attach("disk")) as machine:
            machine.get_through(1)
            for turn, victims in enumerate(["worker", "fiskd", "both", "worker"]):
                time.sleep(chance.random())
                if victims != "fiskd":
                    kill_worker(client)
                if victims != "worker":
                    fiskd.kill()
                    time.sleep(chance.random())
                    fiskd.restart()
                machine.get_through(1)
                client.snapshot("disk", f"disk@{turn}")
                machine.get_through(1)
            assert client.upgrade() == 1
            machine.get_through(1)
        for attachment in client.attachments():
            client.detach(attachment.id)
    with Engine.open(home) as engine:
        assert engine.check().problems == []

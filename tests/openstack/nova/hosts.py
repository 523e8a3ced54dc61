# SPDX-License-Identifier: Apache-2.0
"""The compute hosts as tests use them: what runs there, how one dies at once, and how it comes back."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from openstack.connection import Connection
from openstack.exceptions import BadRequestException

from fisk_core.client import RemoteEngine
from fisk_core.model import Attachment
from tests.openstack.cloud import PLACE, ministack, until

SECONDS = 60


class Host:
    """One compute host, counted from 1; the first has everything else of the cloud, too."""

    def __init__(self, number: int) -> None:
        suffix = f"-{number}" if number > 1 else ""
        self.name = f"ministack{suffix}"
        self.daemons = tuple(f"{each}{suffix}" for each in ("nova-compute", "libvirtd", "fiskd"))
        self.data = PLACE / "data" / str(number) if number > 1 else PLACE / "data"
        self.url = f"unix://{self.data / 'fisk' / 'run' / 'fiskd.sock'}"

    # What is there

    def guests(self) -> list[str]:
        """Give the servers libvirt knows here, running or not."""
        uri = f"qemu:///system?socket={self.data}/libvirt/run/libvirt-sock"
        words = ["virsh", "--connect", uri, "list", "--all", "--uuid"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()

    def attachments(self, server: str) -> list[Attachment]:
        """Give what a server has attached here, as this host's daemon says."""
        with RemoteEngine.open(self.url) as engine:
            return [each for each in engine.attachments(host=self.name) if each.consumer == server]

    def workers(self) -> dict[str, int]:
        """Give the workers of this host: Fisk → process."""
        with RemoteEngine.open(self.url) as engine:
            return {str(each["fisk_id"]): int(each["pid"]) for each in engine.workers()}

    def leavings(self, server: str) -> list[str]:
        """Give what a server that went elsewhere has here: a guest, attachments, files."""
        state = self.data / "nova"
        files = [each for each in state.rglob("*") if server in each.name and "console" not in each.name]
        guests = [each for each in self.guests() if each == server]
        return [*guests, *(each.id for each in self.attachments(server)), *map(str, files)]

    def devices(self) -> list[str]:
        """Give the mounts and loop devices made by this host's daemon."""
        own = str(self.data / "fisk" / "run" / "access")
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        loops = [each.read_text() for each in Path("/sys/block").glob("loop*/loop/backing_file")]
        return [each for each in (*mounts, *loops) if own in each]

    # How it dies, and comes back

    def process(self, daemon: str) -> int:
        """Give the process of one of ``daemons``."""
        return int(json.loads((PLACE / "run" / f"{daemon}.json").read_text())["pid"])

    def die(self) -> None:
        """Kill what runs here: Nova's program, the guests, and all of Fisk.  Nothing has time to clean up."""
        daemons = {each: self.process(each) for each in self.daemons}
        supervisor = daemons[next(each for each in daemons if each.startswith("fiskd"))]
        of_fisk = {*self.workers().values(), *_below(supervisor), *_using(self.data / "fisk" / "run")}
        guests = {int(each.read_text()) for each in (self.data / "libvirt" / "run" / "qemu").glob("*.pid")}
        for process in (*daemons.values(), *guests, *of_fisk):  # who would start others again goes first
            kill(process)

    def come_back(self, cloud: Connection) -> None:
        """Have everything run again that died, and Nova give it work again."""
        ministack("up")
        # Nova refuses that until the host has seen to all that was evacuated from it.
        until(lambda: forced_down(cloud, self, False), f"{self.name} not forced down", SECONDS)
        until(lambda: self._is_up(cloud), f"{self.name} up", SECONDS)

    def _is_up(self, cloud: Connection) -> bool:
        found = cloud.compute.services(binary="nova-compute", host=self.name)
        return all(each.state == "up" for each in found)


def forced_down(cloud: Connection, host: Host, down: bool) -> bool:
    """Tell Nova that a host is dead, which it would notice after a minute, or that it is not.

    False if Nova does not accept that.
    """
    (service,) = cloud.compute.services(binary="nova-compute", host=host.name)
    if service.is_forced_down != down:
        try:
            cloud.compute.update_service_forced_down(service, forced=down)
        except BadRequestException:
            return False
    return True


def kill(process: int) -> None:
    """End a process at once; one that ended by itself is fine."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _below(process: int) -> Iterator[int]:
    """Give the processes a process started, and those started by them."""
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield int(child)
            yield from _below(int(child))


def _using(directory: Path) -> Iterator[int]:
    """Give the processes that were told of files in a directory: those that serve a device over one."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{directory}/".encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)

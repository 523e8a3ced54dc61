# SPDX-License-Identifier: Apache-2.0
"""Servers as tests use them: what their guests say, what they have of Fisk, that nothing of them is left."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_core.model import Attachment, Fisk
from fisk_openstack.labels import SERVER, Kind
from tests.openstack.cloud import GIB, PLACE, gone, ministack, unique, until

SECONDS = 180
"""How long a guest may take for anything: without KVM, on a busy machine."""
MICROVERSION = "2.93"


class Server:
    """One server; ``own`` is its id."""

    def __init__(self, cloud: Connection, engine: RemoteEngine, own: str) -> None:
        self.cloud, self.compute, self.engine, self.own = cloud, cloud.compute, engine, own

    # What Nova says

    def state(self) -> Any:
        """Give the server as it is now."""
        return self.compute.get_server(self.own)

    def wait(self, status: str = "ACTIVE") -> None:
        """Wait until it has a status and does nothing; raises AssertionError when it failed."""

        def there() -> bool:
            found = self.state()
            if found.status == "ERROR" and status != "ERROR":
                raise AssertionError(f"server {self.own}: {found.fault}; see the log of nova-compute")
            return found.status == status and found.task_state is None

        until(there, f"server {self.own} {status}", SECONDS)

    def act(self, action: Callable[..., Any], status: str = "ACTIVE", **options: Any) -> None:
        """Do something with it and wait until it is done; ``action`` is a method of openstacksdk's proxy."""
        action(self.own, **options)
        self.wait(status)

    # What the guest says

    def console(self) -> str:
        """Give what the guest said since it was last started."""
        time.sleep(1)  # it is asked again and again, and the guest needs the processors
        return str(self.compute.get_server_console_output(self.own)["output"])

    def says(self, pattern: str, count: int = 1) -> str:
        """Wait until the guest said something ``count`` times, and give the last; damage fails."""

        def there() -> str | None:
            text = self.console()
            assert "DAMAGED" not in text, text
            found = [each.group(0) for each in re.finditer(pattern, text, re.MULTILINE)]
            return found[-1] if len(found) >= count else None

        return str(until(there, f"'{pattern}' of {self.own}", SECONDS))

    def ticks(self) -> int:
        """Give how often it has written to its disk."""
        found = re.findall(r"^tick (\d+)", self.console(), re.MULTILINE)
        return int(found[-1]) if found else 0

    def goes_on(self) -> None:
        """Wait until it has written to its disk twice more."""
        before = self.ticks()
        until(lambda: self.ticks() >= before + 2, f"server {self.own} writes", SECONDS)

    # What Fisk has

    def disks(self) -> dict[str, Fisk]:
        """Give the Fisks it owns by the names of the disks."""
        found = self.engine.list(attributes={SERVER: self.own})
        return {each.attributes[Kind.DISK].partition("/")[2]: each for each in found}

    def attachments(self) -> list[Attachment]:
        """Give what is attached for it, anywhere."""
        return [each for each in self.engine.attachments() if each.consumer == self.own]

    def worker(self, name: str = "disk") -> int:
        """Give the process that serves a disk."""
        fisk = self.disks()[name].id
        return next(int(each["pid"]) for each in self.engine.workers() if each["fisk_id"] == fisk)

    def remove(self) -> None:
        """Delete it and wait until it is gone."""
        self.compute.delete_server(self.own, ignore_missing=True)
        until(lambda: gone(lambda: self.compute.get_server(self.own)), f"server {self.own} gone", SECONDS)

    def leaves_nothing(self) -> None:
        """Fail if anything is left of a server that was deleted."""
        assert self.disks() == {}
        assert self.attachments() == []
        states = [PLACE / "data" / "nova", *(PLACE / "data").glob("[0-9]*/nova")]  # of all hosts
        assert [each for state in states for each in left_in(state, self.own)] == []


def left_in(directory: Path, own: str) -> list[Path]:
    """Give what has a name with ``own`` in it, below a directory."""
    return [each for each in directory.rglob("*") if own in each.name and "console" not in each.name]


class Boot:
    """Makes servers that are gone after the test."""

    def __init__(self, cloud: Connection, engine: RemoteEngine, later: Callable[..., None]) -> None:
        self.cloud, self.engine, self.later = cloud, engine, later
        self.image = cloud.image.find_image("tiny", ignore_missing=False)

    def __call__(self, flavor: str = "m1.tiny", *, wait: bool = True, **options: Any) -> Server:
        """Boot a server; ``options`` as openstacksdk has them, the cloud's own image by default."""
        if "block_device_mapping" not in options:
            options.setdefault("image_id", self.image.id)
        kind = self.cloud.compute.find_flavor(flavor, ignore_missing=False)
        made = self.cloud.compute.create_server(
            name=unique("server"), flavor_id=kind.id, networks="none", **options
        )
        server = Server(self.cloud, self.engine, made.id)
        self.later(server.remove)
        if wait:
            server.wait()
        return server

    def from_volume(self, volume: Any, flavor: str = "m1.tiny", **options: Any) -> Server:
        """Boot a server from a volume that stays when the server goes."""
        mapping = {
            "source_type": "volume",
            "destination_type": "volume",
            "uuid": volume.id,
            "boot_index": 0,
            "delete_on_termination": False,
        }
        return self(flavor, block_device_mapping=[mapping], **options)

    def flavor(self, *, disk: int = 1, ram: int = 128, **options: Any) -> str:
        """Make a flavor (GiB, MiB; ``ephemeral``, ``swap`` …) and give its name."""
        made = self.cloud.compute.create_flavor(name=unique("flavor"), vcpus=1, ram=ram, disk=disk, **options)
        self.later(lambda: self.cloud.compute.delete_flavor(made.id))
        return str(made.name)


def killed(pid: int) -> None:
    """Kill a process of the cloud, so that it cannot clean up."""
    os.kill(pid, signal.SIGKILL)


def compute_service() -> int:
    """Give the process of nova-compute."""
    return int(json.loads((PLACE / "run" / "nova-compute.json").read_text())["pid"])


def compute_again() -> None:
    """Have nova-compute run again."""
    ministack("up")


__all__ = ["GIB", "MICROVERSION", "Boot", "Server", "compute_again", "compute_service", "killed", "left_in"]

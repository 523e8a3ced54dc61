# SPDX-License-Identifier: Apache-2.0
"""The ``openstack`` command, as a person types it, without starting Python anew for each one."""

import io
import json
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from openstack.connection import Connection
from openstackclient.shell import OpenStackShell

from devstack.ministack import furniture, identity
from devstack.ministack.errors import MinistackError
from devstack.ministack.place import Place

_PATIENCE = 600
_POLL = 0.05
"""seconds"""


class Refused(MinistackError):
    """The cloud did not do what a command asked for."""


class Commands:
    """A person with a shell."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.say = say
        self.cloud: Connection = identity.connect(place)
        os.environ.update(furniture.rc(place))

    def run(self, *words: str) -> dict[str, Any]:
        """Run ``openstack WORDS`` and give what it shows; raises Refused."""
        self.say(f"  $ openstack {' '.join(words)}")
        output, complaints = io.StringIO(), io.StringIO()
        shows = "create" in words[:3]
        with redirect_stdout(output), redirect_stderr(complaints):
            status = OpenStackShell().run([*words, *(("-f", "json") if shows else ())])
        if status:
            said = complaints.getvalue().strip().splitlines() or ["it said nothing"]
            raise Refused(said[-1])
        return dict(json.loads(output.getvalue())) if shows else {}

    def wait(self, kind: str, own: str, wanted: str) -> None:
        """Wait until the image, volume, snapshot or server has the status ``wanted``; raises Refused."""
        get = {
            "image": self.cloud.image.get_image,
            "volume": self.cloud.block_storage.get_volume,
            "snapshot": self.cloud.block_storage.get_snapshot,
            "server": self.cloud.compute.get_server,
        }[kind]
        deadline = time.monotonic() + _PATIENCE
        while (status := get(own).status.lower()) != wanted:
            if "error" in status or status == "killed":
                raise Refused(f"{kind} {own} became '{status}'")
            if time.monotonic() > deadline:
                raise Refused(f"{kind} {own} is still '{status}' after {_PATIENCE} s")
            time.sleep(_POLL)

    def named(self, kind: str, names: Collection[str] | None = None) -> list[Any]:
        """Give what there is of a kind: what has one of the names, or begins with ``demo-``."""
        every: dict[str, Callable[[], Iterable[Any]]] = {
            "image": self.cloud.image.images,
            "volume": self.cloud.block_storage.volumes,
            "volume snapshot": self.cloud.block_storage.snapshots,
            "server": self.cloud.compute.servers,
        }
        found = [one for one in every[kind]() if (one.name or "").startswith("demo-")]
        return [one for one in found if names is None or one.name in names]

    def wait_gone(self, kind: str, names: Collection[str]) -> None:
        """Wait until nothing of a kind has one of the names; raises Refused."""
        deadline = time.monotonic() + _PATIENCE
        while left := self.named(kind, names):
            failed = [one for one in left if "error" in one.status.lower() or one.status == "available"]
            if failed or time.monotonic() > deadline:
                raise Refused(f"{kind} {left[0].name} is still there: {left[0].status.lower()}")
            time.sleep(_POLL)

    def clean(self) -> None:
        """Remove what a story that was interrupted left."""
        for kind in ("server", "volume snapshot", "volume", "image"):
            names = {one.name for one in self.named(kind)}
            if names:
                self.run(*kind.split(), "delete", *sorted(one.id for one in self.named(kind)))
                self.wait_gone(kind, names)

    def console(self, server: str, word: str, seconds: float = 300) -> str:
        """Wait until a server's console says ``word`` and give that line; raises Refused."""
        deadline = time.monotonic() + seconds
        while True:
            said = self.cloud.compute.get_server_console_output(server)["output"] or ""
            for line in said.splitlines():
                if line.startswith(word):
                    return str(line)
            if time.monotonic() > deadline:
                raise Refused(f"the console does not say '{word}' within {seconds:.0f} s")
            time.sleep(0.5)

# SPDX-License-Identifier: Apache-2.0
"""libvirtd with directories of its own, so that it knows only the servers of this ministack."""

import contextlib
import os
import pwd
import signal
from pathlib import Path

from devstack.ministack.errors import MinistackError
from devstack.ministack.hosts import ComputeHost
from devstack.ministack.place import Place
from devstack.ministack.processes import Daemons, call
from devstack.ministack.services.base import Service

_PRIVATE = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "run": "/run/libvirt",
    "cache": "/var/cache/libvirt",
}
"""ours → what it covers, in libvirtd's own mount namespace: these paths are fixed when libvirt is built"""


def make_user() -> None:
    """Make the user libvirt looks up by name before it reads that it is to be root."""
    try:
        pwd.getpwnam("libvirt-qemu")
    except KeyError:
        call(["adduser", "--system", "--group", "--no-create-home", "libvirt-qemu"])


class Libvirt(Service):
    """libvirtd and the servers it starts, which see mounts made later, but nobody sees theirs."""

    def __init__(self, place: Place, daemons: Daemons, host: ComputeHost) -> None:
        super().__init__(place, daemons)
        self.host, self.name = host, f"libvirtd{host.suffix}"
        self.base = host.data / "libvirt"

    def start(self) -> None:
        """Start it in a mount namespace."""
        mounts = {}
        for name, path in _PRIVATE.items():
            (self.base / name).mkdir(parents=True, exist_ok=True)
            os.makedirs(path, exist_ok=True)
            mounts[self.base / name] = Path(path)
        config = self.place.etc / f"libvirt{self.host.suffix}"
        (self.base / "etc" / "qemu.conf").write_bytes((config / "qemu.conf").read_bytes())
        if not self.host.socket.is_symlink():
            self.host.socket.symlink_to(self.base / "run" / "libvirt-sock")
        pid_file = self.place.run / f"{self.name}.pid"  # the usual one may be another libvirtd's
        words = ["libvirtd", "--config", config / "libvirtd.conf", "--pid-file", pid_file]
        self.daemons.start(self.name, self.host.command(words, mounts))

    @property
    def uri(self) -> str:
        """Where clients outside its namespace find it."""
        return f"qemu:///system?socket={self.base}/run/libvirt-sock"

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            self.virsh("version")
        except MinistackError:
            return False
        return True

    def virsh(self, *words: str) -> str:
        """Run a command of libvirt."""
        return call(["virsh", "--connect", self.uri, *words])

    def stop(self) -> None:
        """End the servers it runs, then itself, then servers it could not end any more."""
        if self.daemons.get(self.name) and self.ready():
            for name in self.virsh("list", "--name").split():
                self.virsh("destroy", name)
        super().stop()
        for record in (self.base / "run" / "qemu").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(record.read_text()), signal.SIGKILL)
            record.unlink()

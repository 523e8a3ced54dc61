# SPDX-License-Identifier: Apache-2.0
"""Ceph, which the stock drivers run on: a monitor, a manager, an OSD on a sparse file, no authentication."""

import json
import uuid
from pathlib import Path

from devstack.ministack.errors import MinistackError
from devstack.ministack.processes import call
from devstack.ministack.services.base import Service

POOLS = ("images", "volumes", "vms", "backups")


class CephDaemon(Service):
    """One daemon of the cluster."""

    def start(self) -> None:
        """Start it in the foreground, made first where it has no data yet."""
        kind, _, own = self.name.removeprefix("ceph-").partition(".")
        if not self.data.is_dir():
            self.make()
        self.daemons.start(self.name, [f"ceph-{kind}", "--foreground", "--conf", str(self.conf), "--id", own])

    def make(self) -> None:
        """Prepare its data."""
        self.data.mkdir(parents=True)

    @property
    def conf(self) -> Path:
        """The cluster's configuration."""
        return self.place.etc / "ceph.conf"

    @property
    def data(self) -> Path:
        """Its directory."""
        return self.place.data / "ceph" / self.name.removeprefix("ceph-")

    def ceph(self, *words: str) -> str:
        """Ask the monitor."""
        return call(["ceph", "--conf", self.conf, "--connect-timeout", "5", *words])

    def _asks(self, *words: str) -> dict[str, object]:
        try:
            answer: dict[str, object] = json.loads(self.ceph(*words, "--format", "json"))
        except MinistackError:
            return {}
        return answer


class Monitor(CephDaemon):
    """The monitor."""

    name = "ceph-mon.a"

    def make(self) -> None:
        """Make the map of monitors."""
        super().make()
        (self.place.run / "ceph").mkdir(exist_ok=True)
        words = self.conf.read_text().splitlines()
        fsid = next(line.split()[-1] for line in words if line.startswith("fsid"))
        address = next(line.split()[-1] for line in words if line.startswith("mon host"))
        monitors = self.place.data / "ceph" / "monmap"
        call(["monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monitors])
        call(["ceph-mon", "--conf", self.conf, "-i", "a", "--mkfs", "--monmap", monitors])

    def ready(self) -> bool:
        """Whether it answers."""
        return bool(self._asks("status"))


class Manager(CephDaemon):
    """The manager: without it nobody knows how full the cluster is."""

    name = "ceph-mgr.a"

    def ready(self) -> bool:
        """Whether it is the active one."""
        return bool(self._asks("mgr", "stat").get("available"))


class Osd(CephDaemon):
    """The daemon that keeps the data."""

    name = "ceph-osd.0"

    def make(self) -> None:
        """Register and format it."""
        super().make()
        own = str(uuid.uuid4())
        self.ceph("osd", "new", own)
        call(["ceph-osd", "--conf", self.conf, "-i", "0", "--mkfs", "--osd-uuid", own])

    def ready(self) -> bool:
        """Whether it is up; makes the pools then."""
        if not self._asks("osd", "stat").get("num_up_osds"):
            return False
        have = self.ceph("osd", "pool", "ls").split()
        for pool in POOLS:
            if pool not in have:
                self.ceph("osd", "pool", "create", pool, "8")
                call(["rbd", "--conf", self.conf, "pool", "init", pool])
        return True

# SPDX-License-Identifier: Apache-2.0
"""The services that take their work from the message queue."""

from pathlib import Path

from devstack.ministack.hosts import ComputeHost
from devstack.ministack.place import Place
from devstack.ministack.processes import Daemons
from devstack.ministack.services.base import Service


class QueueWorker(Service):
    """One program of a package, reading ``folder``'s configuration."""

    file: str

    def start(self) -> None:
        """Start it, with a directory to keep its state in."""
        (self.place.data / self.name.partition("-")[0]).mkdir(exist_ok=True)
        program = self.place.venv / "bin" / self.name
        self.daemons.start(
            self.name, [str(program), "--config-file", str(self.place.etc / self.file), *self._logging()]
        )

    def _logging(self) -> list[str]:
        return ["--log-file", str(self.place.log / f"{self.name}.log")]


class CinderScheduler(QueueWorker):
    """Chooses where a volume goes."""

    name, file = "cinder-scheduler", "cinder/cinder.conf"


class CinderVolume(QueueWorker):
    """Runs the volume driver."""

    name, file = "cinder-volume", "cinder/cinder.conf"

    def start(self) -> None:
        """Start it; os-brick makes links to devices where udev would, which may not run here."""
        Path("/dev/disk/by-id").mkdir(parents=True, exist_ok=True)
        super().start()


class CinderBackup(QueueWorker):
    """Runs the backup driver."""

    name, file = "cinder-backup", "cinder/cinder.conf"

    def start(self) -> None:
        """Start it, with a directory for backups."""
        (self.place.data / "cinder" / "backups").mkdir(parents=True, exist_ok=True)
        super().start()


class NovaConductor(QueueWorker):
    """Speaks to the database for the others."""

    name, file = "nova-conductor", "nova/nova.conf"


class NovaScheduler(QueueWorker):
    """Chooses where a server goes."""

    name, file = "nova-scheduler", "nova/nova.conf"


class NovaCompute(QueueWorker):
    """Runs servers.  One that fails to start does not end by itself: libvirtd must be there before."""

    def __init__(self, place: Place, daemons: Daemons, host: ComputeHost) -> None:
        super().__init__(place, daemons)
        self.host, self.name = host, f"nova-compute{host.suffix}"
        self.file = f"{self.name}/nova.conf"

    def start(self) -> None:
        """Start it on its host."""
        words = [self.place.venv / "bin" / "nova-compute", "--config-file", self.place.etc / self.file]
        self.daemons.start(self.name, self.host.command([*words, *self._logging()]))

# SPDX-License-Identifier: Apache-2.0
"""Our own daemon, which has workers that outlive it."""

from pathlib import Path

from devstack.ministack.hosts import ComputeHost
from devstack.ministack.place import Place
from devstack.ministack.processes import Daemons, call
from devstack.ministack.services.base import Service
from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError

SECOND = "second"


class Fiskd(Service):
    """fiskd with a home of its own."""

    def __init__(self, place: Place, daemons: Daemons, host: ComputeHost) -> None:
        super().__init__(place, daemons)
        self.host, self.name = host, f"fiskd{host.suffix}"

    @property
    def home(self) -> Path:
        """Its home directory."""
        return self.host.data / "fisk"

    def start(self) -> None:
        """Start it."""
        self.home.mkdir(exist_ok=True)
        (self.home / "fisk.conf").write_bytes((self.place.etc / f"fisk{self.host.suffix}.conf").read_bytes())
        self.daemons.start(self.name, [str(self.place.venv / "bin" / "fiskd"), "--home", str(self.home)])

    def ready(self) -> bool:
        """Whether it answers; makes the second pool then, to have somewhere to move things to."""
        try:
            with RemoteEngine.open(home=self.home) as engine:
                if SECOND not in {pool.name for pool in engine.pools()}:
                    engine.create_pool(SECOND, options={"path": str(self.place.data / "second")})
        except FiskError:
            return False
        return True

    def stop(self) -> None:
        """End it and its workers, when what was written is durable."""
        if self.daemons.get(self.name):
            call([self.place.venv / "bin" / "fiskd", "--home", self.home, "stop", "--drain"])
        super().stop()

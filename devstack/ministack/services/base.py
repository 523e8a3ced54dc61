# SPDX-License-Identifier: Apache-2.0
"""What every service has in common."""

import socket
from abc import ABC, abstractmethod

from devstack.ministack.place import Place
from devstack.ministack.processes import Daemons


class Service(ABC):
    """One daemon."""

    name: str
    patience: float = 20
    """seconds it may take to end"""

    def __init__(self, place: Place, daemons: Daemons) -> None:
        self.place, self.daemons = place, daemons

    @abstractmethod
    def start(self) -> None:
        """Start it, unless it runs; does not wait."""

    def ready(self) -> bool:
        """Whether it can be used; asked until it says yes."""
        return True

    def wait(self) -> None:
        """Wait until it can be used; raises MinistackError."""
        self.daemons.wait(self.name, self.ready)

    def stop(self) -> None:
        """End it, and everything it started."""
        self.daemons.stop(self.name, seconds=self.patience)


def listens(port: int) -> bool:
    """Whether something on loopback answers at ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

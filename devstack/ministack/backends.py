# SPDX-License-Identifier: Apache-2.0
"""What the cloud keeps its blocks on: our drivers, or the stock ones on Ceph."""

import uuid
from abc import ABC, abstractmethod
from pathlib import Path

from devstack.ministack.hosts import ComputeHost, hosts_of
from devstack.ministack.place import Place
from devstack.ministack.processes import Daemons
from devstack.ministack.services import ceph
from devstack.ministack.services.base import Service
from devstack.ministack.services.fiskd import Fiskd

CATALOG = "fisk"
"""name of the database that is the catalog of several hosts"""


class Backend(ABC):
    """The daemons of a storage and how the services are told of it."""

    name: str
    volume_type: str

    def __init__(self, place: Place, daemons: Daemons) -> None:
        self.place, self.daemons = place, daemons

    @abstractmethod
    def services(self) -> list[Service]:
        """Give its daemons, in the order in which they start, each ready before the next."""

    def prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Do what must be done before anything starts."""

    def databases(self) -> tuple[str, ...]:
        """Give the databases it wants to be there before its daemons start."""
        return ()

    def settings(self) -> dict[str, object]:
        """Give what the templates of this back end need."""
        return {}

    def templates(self) -> dict[str, str]:
        """Give more files: template → name below ``etc``."""
        return {}

    def settings_of(self, host: ComputeHost) -> dict[str, object]:
        """Give what the templates of a host need beside ``settings``, or instead of them."""
        return {}

    def templates_of(self, host: ComputeHost) -> dict[str, str]:
        """Give more files of a host: template → name below ``etc``."""
        return {}


class Stock(Backend):
    """The drivers that come with OpenStack, on Ceph RBD."""

    name, volume_type = "stock", "ceph"

    def services(self) -> list[Service]:
        """A whole cluster."""
        return [each(self.place, self.daemons) for each in (ceph.Monitor, ceph.Manager, ceph.Osd)]

    def settings(self) -> dict[str, object]:
        """The cluster's id, made once."""
        path = self.place.data / "ceph.fsid"
        if not path.exists():
            path.write_text(str(uuid.uuid4()))
        return {"fsid": path.read_text()}

    def prepare(self) -> None:
        """Let the services find Debian's modules for Ceph, which are on no package index."""
        modules = next((self.place.venv / "lib").glob("python3*")) / "site-packages"
        for found in Path("/usr/lib/python3/dist-packages").glob("r[ab]d*.so"):
            if not (modules / found.name).exists():
                (modules / found.name).symlink_to(found)

    def templates(self) -> dict[str, str]:
        """The cluster's own configuration."""
        return {"stock/ceph.conf.j2": "ceph.conf"}


class Fisk(Backend):
    """Our drivers, on a daemon of this host."""

    name, volume_type = "fisk", "fisk"

    def services(self) -> list[Service]:
        """One daemon on each host."""
        return [Fiskd(self.place, self.daemons, host) for host in hosts_of(self.place)]

    def databases(self) -> tuple[str, ...]:
        """The catalog that several hosts share.  A host that is alone has it in a file."""
        return (CATALOG,) if self.place.computes > 1 else ()

    def settings(self) -> dict[str, object]:
        """The catalog that several hosts share, and how the first finds the daemons of the others."""
        _, *others = hosts_of(self.place)
        urls = {each.name: f"unix://{each.data / 'fisk' / 'run' / 'fiskd.sock'}" for each in others}
        return {"catalog": CATALOG, "others": ",".join(f"{name}:{url}" for name, url in urls.items())}

    def settings_of(self, host: ComputeHost) -> dict[str, object]:
        """The daemon's home."""
        return {"fisk": host.data / "fisk"}

    def templates_of(self, host: ComputeHost) -> dict[str, str]:
        """The daemon's own configuration."""
        return {"fisk/fisk.conf.j2": f"fisk{host.suffix}.conf"}


BACKENDS = {each.name: each for each in (Fisk, Stock)}

# SPDX-License-Identifier: Apache-2.0
"""Where one ministack lives: its directories, ports and pass words."""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PORTS = {
    "mariadb": 13306,
    "rabbitmq": 15672,
    "epmd": 14369,
    "keystone": 15000,
    "glance": 19292,
    "placement": 18778,
    "cinder": 18776,
    "nova": 18774,
    "neutron": 19696,
    "nbd": 10810,
    "ceph": 16789,
    "files": 19080,
}
"""on 127.0.0.1; far from the usual ones, so that a ministack can stand beside a real service"""


@dataclass(frozen=True)
class Place:
    """A directory with everything of one ministack in it, and the storage it runs on."""

    directory: Path
    backend: str
    """``fisk`` or ``stock``"""
    computes: int = 1
    """how many compute hosts there are"""

    @classmethod
    def below(cls, directory: Path, backend: str, computes: int = 1) -> "Place":
        """Give the one in a directory with several: each storage, and each number of hosts, has its own."""
        name = f"{backend}-{computes}" if computes > 1 else backend
        return cls((directory / name).resolve(), backend, computes)

    @property
    def venv(self) -> Path:
        """The Python packages of the services, shared by every back end."""
        return self.directory.parent / "venv"

    @property
    def images(self) -> Path:
        """Where images to upload are built, for every back end."""
        return self.directory.parent / "images"

    @property
    def etc(self) -> Path:
        """Configuration as written by ``up``."""
        return self.directory / "etc"

    @property
    def data(self) -> Path:
        """Databases, images, instances."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """One log a daemon."""
        return self.directory / "log"

    @property
    def run(self) -> Path:
        """Records of daemons."""
        return self.directory / "run"

    @property
    def python(self) -> Path:
        """The interpreter of the services."""
        return self.venv / "bin" / "python"

    @cached_property
    def secret(self) -> str:
        """The pass word of every service and of the user ``admin``, made once."""
        path = self.directory / "secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(18))
        return path.read_text()

    def make(self) -> None:
        """Create the directories."""
        for path in (self.etc, self.data, self.log, self.run):
            path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from starting or stopping services meanwhile; waits until they have done so."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def url(self, service: str, path: str = "") -> str:
        """Give the address of a service."""
        return f"http://127.0.0.1:{PORTS[service]}{path}"

# SPDX-License-Identifier: Apache-2.0
"""The services that answer HTTP: WSGI applications, each in a process of its own."""

import urllib.error
import urllib.request
from pathlib import Path

from devstack.ministack.place import PORTS
from devstack.ministack.services.base import Service

THREADS = 8
SERVE = Path(__file__).parent.parent / "serve.py"


class Api(Service):
    """One WSGI application."""

    module: str

    @property
    def environment(self) -> dict[str, str]:
        """Give where the application finds its configuration."""
        return {f"OS_{self.name.upper()}_CONFIG_DIR": str(self.place.etc / self.name)}

    words: tuple[str, ...] = ()

    def start(self) -> None:
        """Start it behind gunicorn."""
        words = [word.format(etc=self.place.etc) for word in self.words]
        self.daemons.start(
            self.name,
            [
                str(self.place.python),
                str(SERVE),
                self.module,
                str(PORTS[self.name]),
                str(THREADS),
                *words,
            ],
            env=self.environment,
        )

    def ready(self) -> bool:
        """Whether it answers; any answer but a failure of the server counts."""
        try:
            with urllib.request.urlopen(self.place.url(self.name, "/"), timeout=5):
                return True
        except urllib.error.HTTPError as answer:
            return answer.code < 500
        except OSError:
            return False


class Keystone(Api):
    """Identity."""

    name, module = "keystone", "keystone.wsgi.api"


class Placement(Api):
    """Where servers may go."""

    name, module = "placement", "placement.wsgi.api"


class Glance(Api):
    """Images."""

    name, module = "glance", "glance.wsgi.api"


class CinderApi(Api):
    """Volumes."""

    name, module = "cinder", "cinder.wsgi.api"
    words = ("--config-file", "{etc}/cinder/cinder.conf")


class NovaApi(Api):
    """Servers."""

    name, module = "nova", "nova.wsgi.osapi_compute"


class NeutronApi(Api):
    """Networks: the API alone."""

    name, module = "neutron", "neutron.wsgi.api"
    words = ("--config-file", "{etc}/neutron/neutron.conf")

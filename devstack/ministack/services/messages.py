# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ, and the port mapper Erlang would otherwise start by itself and leave behind."""

from devstack.ministack.place import PORTS
from devstack.ministack.services.base import Service, listens


class PortMapper(Service):
    """epmd, on a port of its own."""

    name = "epmd"

    def start(self) -> None:
        """Start it in the foreground."""
        port = str(PORTS["epmd"])
        self.daemons.start(self.name, ["epmd", "-address", "127.0.0.1", "-port", port])

    def ready(self) -> bool:
        """Whether it listens."""
        return listens(PORTS["epmd"])


class RabbitMQ(Service):
    """The message queue."""

    name = "rabbitmq"

    def start(self) -> None:
        """Start it with all its files below the place."""
        base = self.place.data / "rabbitmq"
        base.mkdir(exist_ok=True)
        self.daemons.start(
            self.name,
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            env={
                "HOME": str(base),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_EPMD_PORT": str(PORTS["epmd"]),
                "RABBITMQ_NODENAME": "ministack@localhost",
                "RABBITMQ_CONFIG_FILE": str(self.place.etc / "rabbitmq.conf"),
                "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                "RABBITMQ_ENABLED_PLUGINS_FILE": "/dev/null",
                "RABBITMQ_MNESIA_BASE": str(base),
                "RABBITMQ_LOG_BASE": str(self.place.log),
                "RABBITMQ_DIST_PORT": str(PORTS["rabbitmq"] + 20000),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            },
        )

    def ready(self) -> bool:
        """Whether it takes connections."""
        return listens(PORTS["rabbitmq"])

# SPDX-License-Identifier: Apache-2.0
"""The whole cloud: what is started in which order, and stopped in the other."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from devstack.ministack import configuration, furniture, identity, tables
from devstack.ministack.backends import BACKENDS
from devstack.ministack.errors import MinistackError
from devstack.ministack.hosts import hosts_of
from devstack.ministack.place import PORTS, Place
from devstack.ministack.processes import Daemons, waited
from devstack.ministack.services import apis, hypervisor, messages, workers
from devstack.ministack.services.base import Service, listens
from devstack.ministack.services.database import MariaDB


class Stack:
    """All services of one place."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place, self.say = place, say
        self.daemons = Daemons(place.run, place.log)
        self.backend = BACKENDS[place.backend](place, self.daemons)
        self.database = MariaDB(place, self.daemons)
        self.hosts = hosts_of(place)
        self.libvirt = [hypervisor.Libvirt(place, self.daemons, host) for host in self.hosts]
        self.mapper = messages.PortMapper(place, self.daemons)
        self.queue = messages.RabbitMQ(place, self.daemons)
        self.storage = self.backend.services()
        self.apis = self._all(
            apis.Keystone, apis.Glance, apis.Placement, apis.CinderApi, apis.NeutronApi, apis.NovaApi
        )
        self.workers = self._all(
            workers.NovaConductor,
            workers.NovaScheduler,
            workers.CinderScheduler,
            workers.CinderVolume,
            workers.CinderBackup,
        ) + [workers.NovaCompute(place, self.daemons, host) for host in self.hosts]

    def _all(self, *kinds: type[Service]) -> list[Service]:
        return [kind(self.place, self.daemons) for kind in kinds]

    def everything(self) -> list[Service]:
        """Give all services, each after those it needs."""
        return [
            self.mapper,
            self.database,
            self.queue,
            *self.storage,
            *self.libvirt,  # their servers end before what they write to
            *self.apis,
            *self.workers,
        ]

    def up(self) -> None:
        """Start what does not run; returns when servers can be made."""
        if os.geteuid() != 0:
            raise MinistackError("this takes root: it mounts, and starts a hypervisor")
        self.place.make()
        hypervisor.make_user()
        self._refuse_strangers()
        self.backend.prepare()
        self._configure()
        self._start("database, queue, hypervisor", [self.mapper, self.database, *self.libvirt])
        # Names that differ in case, or in spaces at the end, are two names.
        self.database.create(self.backend.databases(), "utf8mb4_nopad_bin")
        self.queue.start()
        for each in self.storage:
            self._start(each.name, [each])
        self._prepare()
        self._start("queue and APIs", [self.queue, *self.apis])
        identity.register(self.place, identity.connect(self.place))
        self._start("workers", self.workers)
        furniture.arrange(self)

    def _configure(self) -> None:
        """Write what all services read, and those of each host."""
        common = self.backend.settings()
        for host, libvirt in reversed([*zip(self.hosts, self.libvirt, strict=True)]):
            host.make()
            own = {"host": host, "libvirt": libvirt.uri, **common, **self.backend.settings_of(host)}
            templates = {**configuration.of_host(host), **self.backend.templates_of(host)}
            configuration.write(self.place, templates, own)
        # ``own`` is the first host's now: it runs what there is only once.
        configuration.write(self.place, {**configuration.FILES, **self.backend.templates()}, own)
        configuration.copy_paste(self.place)

    def _prepare(self) -> None:
        """Make databases and tables, once for each version of the packages."""
        stamp = self.place.data / "prepared"
        versions = tables.digest()
        if stamp.exists() and stamp.read_text() == versions:
            return
        started = time.monotonic()
        tables.prepare(self.place, self.database)
        identity.bootstrap(self.place)
        stamp.write_text(versions)
        self.say(f"tables: {time.monotonic() - started:.1f} s")

    def _start(self, what: str, services: Sequence[Service]) -> None:
        started = time.monotonic()
        for each in services:
            each.start()
        for each in services:
            each.wait()
        self.say(f"{what}: {time.monotonic() - started:.1f} s")

    def _refuse_strangers(self) -> None:
        """Raise MinistackError where a port we need is another's."""
        running = set(self.running())
        for name, port in PORTS.items():
            if not running and listens(port):
                raise MinistackError(
                    f"port {port} ({name}) of 127.0.0.1 is in use by a process that is not ours, or another "
                    "ministack's: of another storage, or with more hosts or fewer"
                )

    def running(self) -> list[str]:
        """Give the names of the daemons that run."""
        return [name for name in self.daemons.names() if self.daemons.get(name)]

    def down(self) -> None:
        """Stop what runs, the last started first."""
        ours = self.everything()
        for group in (self.workers, self.apis):  # they do not wait for one another
            for each in group:
                self.daemons.signal(each.name)
            waited(lambda group=group: not any(self.daemons.get(one.name) for one in group), 15)
        for each in reversed(ours):
            each.stop()
        for name in self.daemons.names():  # of a version that had more of them
            with suppress(MinistackError):
                self.daemons.stop(name)

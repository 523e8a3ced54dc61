# SPDX-License-Identifier: Apache-2.0
"""The daemon: what runs, in the order in which it starts and ends.

One for each home directory, by a lock.  It listens first, so that clients that come while it starts wait
instead of failing; it serves when it has found its workers again.  At the end it finishes the requests under
way and leaves the workers running, unless told to drain them.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvloop
from oslo_config import cfg

from fisk_core import locks
from fisk_core.api.app import create_app, policies
from fisk_core.api.broadcast import Broadcast
from fisk_core.api.gate import Gate
from fisk_core.api.identity import Groups, Tokens
from fisk_core.api.policy import Guard
from fisk_core.api.services import Services
from fisk_core.config import Home
from fisk_core.daemon import listeners, logs, options
from fisk_core.daemon.connection import protocol
from fisk_core.daemon.http import Servers
from fisk_core.daemon.notify import notify, watchdog_seconds
from fisk_core.engine import Engine
from fisk_core.errors import FiskError, InUse
from fisk_core.jobs import Runner
from fisk_core.services.scheduler import Scheduler
from fisk_core.supervision import Supervisor

LOG = logging.getLogger(__name__)

Listeners = list[tuple[socket.socket, listeners.Address | None]]


def lock_file(home: Home) -> Path:
    """Held by the daemon of a home directory; has its process id in it."""
    return home.run / "fiskd.lock"


def run(home: Home, conf: cfg.ConfigOpts) -> None:
    """Run until told to stop; raises InUse when another daemon serves this home directory."""
    home.make()
    where = listeners.address(conf)
    if where is not None and where.tls:
        listeners.tls_context(where)  # complains before anything is begun
    groups = Groups.named(conf.api.operator_group, conf.api.reader_group)
    with _only_one(home), _listening(home, conf, where) as found, _services(home, conf) as services:
        daemon = _Daemon(home, conf, services, found, groups)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.serve())
        if daemon.draining:
            services.supervisor.drain()


@contextmanager
def _only_one(home: Home) -> Iterator[None]:
    try:
        lock = locks.acquire(lock_file(home))
    except InUse as exc:
        raise InUse(f"another fiskd serves {home.path} already") from exc
    with lock:
        os.ftruncate(lock.fd, 0)
        os.pwrite(lock.fd, b"%d\n" % os.getpid(), 0)
        yield
        os.ftruncate(lock.fd, 0)


@contextmanager
def _listening(home: Home, conf: cfg.ConfigOpts, where: listeners.Address | None) -> Iterator[Listeners]:
    with ExitStack() as stack:
        local = stack.enter_context(closing(listeners.unix(home, conf.api.socket_group)))
        stack.callback(listeners.unix_socket(home).unlink, missing_ok=True)
        found: Listeners = [(local, None)]
        if where is not None:
            remote = stack.enter_context(closing(listeners.tcp(where)))
            port = listeners.port_file(home)
            port.write_text(f"{remote.getsockname()[1]}\n")
            stack.callback(port.unlink, missing_ok=True)
            found.append((remote, where))
        yield found


@contextmanager
def _services(home: Home, conf: cfg.ConfigOpts) -> Iterator[Services]:
    """Start everything but the API; ends it in the opposite order."""
    with ExitStack() as stack:
        engine = stack.enter_context(Engine.open(home.path))
        limits = options.limits(conf)
        guard = Guard(conf, policies(), options.policy_file(home))
        supervisor = stack.enter_context(closing(Supervisor(engine)))
        runner = Runner(
            engine,
            supervisor.host,
            conf.jobs.concurrency,
            max_queued=limits.max_jobs,
            directories=[Path(each) for each in conf.jobs.directories],
        )
        runner.start()
        stack.callback(runner.stop, conf.api.stop_seconds)
        scheduler = Scheduler(engine, high_water=conf.pools.high_water, low_water=conf.pools.low_water)
        scheduler.start()
        stack.callback(scheduler.stop)
        broadcast = Broadcast(engine)
        yield Services(
            engine, supervisor, runner, guard, Tokens(engine.catalog), broadcast, supervisor.host, limits,
            conf.pools.high_water,
        )  # fmt: skip


class _Daemon:
    """The event loop's part of it."""

    def __init__(
        self, home: Home, conf: cfg.ConfigOpts, services: Services, found: Listeners, groups: Groups
    ) -> None:
        self._home, self._services = home, services
        self._conf: Any = conf
        self._found, self._protocol = found, protocol(services.limits, groups)
        self._servers = self._make_servers()
        self.draining = False

    async def serve(self) -> None:
        """Serve until a signal says to stop."""
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        loop.add_signal_handler(signal.SIGUSR2, self._drain, ending)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        anyio.to_thread.current_default_thread_limiter().total_tokens = self._services.limits.threads
        # What is there now stays: looking through it again and again would only make requests wait.
        gc.collect()
        gc.freeze()
        await self._servers.start()
        watchdog = asyncio.create_task(_watchdog())
        LOG.info("serving %s", self._home.path)
        notify("READY=1", f"STATUS=serving {self._home.path}")
        await ending.wait()
        notify("STOPPING=1")
        LOG.info("stopping%s", " and draining" if self.draining else "")
        watchdog.cancel()
        with suppress(asyncio.CancelledError):
            await watchdog
        for waiting in list(self._services.waiting):
            waiting.cancel()
        self._services.broadcast.end_streams()
        await self._servers.stop()
        await anyio.to_thread.run_sync(self._services.broadcast.close)

    def _make_servers(self) -> Servers:
        services = self._services
        gate = Gate(create_app(services), services.limits, services.tokens)
        return Servers(gate, self._found, self._protocol, self._conf.api.stop_seconds)

    def _drain(self, ending: asyncio.Event) -> None:
        self.draining = True
        ending.set()

    def _reload(self) -> None:
        """Take log levels, policy, tokens and certificates anew; what makes no sense changes nothing."""
        try:
            self._conf.reload_config_files()
            logs.set_up(self._conf)
            self._services.guard.reload()
        except FiskError as exc:
            LOG.error("not everything was read anew: %s", exc)
        self._services.tokens.forget()
        self._servers.renew(at_once=True)
        LOG.info("read log levels, policy and tokens anew")


async def _watchdog() -> None:
    """Give signs of life as often as systemd wants, for as long as the event loop and threads get on."""
    seconds = watchdog_seconds()
    while seconds is not None:
        await anyio.to_thread.run_sync(notify, "WATCHDOG=1")
        await asyncio.sleep(seconds / 3)

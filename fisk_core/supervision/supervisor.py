# SPDX-License-Identifier: Apache-2.0
"""The supervisor of a host's workers.

What is attached is in the catalog; which processes serve it is found out.  So a supervisor may end at any
moment, killed or not: the workers go on, and the next supervisor finds them.  There is one for each home
directory, by a lock.  Its verbs may be used by any number of threads.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from fisk_core import locks
from fisk_core.config import Settings
from fisk_core.engine import Engine, validate
from fisk_core.errors import FiskError, InUse
from fisk_core.model import Attachment, Fisk
from fisk_core.supervision import attaching, builds, keeping, shapes
from fisk_core.supervision import incoming as incoming_
from fisk_core.supervision.core import BUILD, Core, required
from fisk_core.supervision.shapes import Build, WorkerStatus
from fisk_core.supervision.workers import Worker

LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_ASKERS = 8
_PATIENCE = 2.0

Attachments = list[Attachment]


class Supervisor:
    """Supervises from its making on; ``close`` leaves the workers running, ``drain`` ends them."""

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        """Find the workers of before; start what is attached and does not run.

        Raises InUse when another process supervises this home.
        """
        self.engine, self.settings = engine, settings or engine.settings
        self.host = self.settings.host
        with ExitStack() as stack:
            stack.callback(_only_one(engine).release)
            self._core = Core(engine, self.settings, self._ended)
            stack.callback(self._core.close)
            self._core.network.start()
            keeping.adopt(self._core)
            self._closing = stack.pop_all()
        self._core.watch.later(_LOOK_SECONDS, self._look)

    def _ended(self, fisk_id: str, worker: Worker) -> None:
        keeping.ended(self._core, fisk_id, worker)

    def _look(self) -> None:
        try:
            keeping.look(self._core)
            builds.look(self._core)
        finally:
            self._core.watch.later(_LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Supervise no more; workers, attachments, and the acceptor go on.  A second call does nothing."""
        self._closing.close()

    def drain(self) -> None:
        """End all workers in order, and the acceptor.

        What is attached stays so: the next supervisor serves it again.
        """
        self._core.network.stop()
        keeping.drain(self._core)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Attachments

    def attach(
        self,
        ref: str,
        *,
        read_only: bool = False,
        access: str = "nbd",
        consumer: str = "",
        id: str | None = None,
        steal: bool = False,
        incoming: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Attachment:
        """Have a Fisk served on this host, and give every way to reach it from here.

        The same id with the same arguments gives the attachment made before.  A Fisk has one worker on its
        host: attachments share it.  ``steal`` takes a Fisk over from another host, whose writer is fenced.
        ``incoming`` is for a guest that moves here while another host still writes: what is served waits for
        its turn, which comes with the first change, or by :meth:`promote`; where no other host has the Fisk,
        it is an attachment like any other.
        Raises NotFound, ReadOnly, InUse (naming the holder), AlreadyExists, InvalidValue, and what an access
        path lacks; a failed attach leaves nothing.
        """
        wanted = attaching.Wanted(
            id=validate.fisk_id(id),
            fisk_id=self.engine.find(ref).id,
            access=str(access),
            read_only=read_only,
            consumer=consumer,
            steal=steal,
            incoming=incoming and not read_only,
            options=options or {},
        )
        keeping.end_fenced(self._core, wanted.fisk_id)
        return attaching.attach(self._core, wanted)

    def promote(self, attachment_id: str) -> Attachment:
        """Have an attachment that waits for its turn write now; the other host's ends, all being durable.

        One that writes already is given as it is.  Raises NotFound, and InUse when the other host does not
        let go, or for an attachment of another host.
        """
        return incoming_.promote(self._core, validate.fisk_id(attachment_id))

    def detach(self, attachment_id: str, *, force: bool = False) -> None:
        """End an attachment; the last one of a Fisk ends its worker, when all is durable.

        One that is ended already is fine.  Raises InUse while a consumer still uses the access path, and for
        an attachment of another host.  ``force`` takes it away from them: the other host's writer is fenced;
        and a worker that does not come to an end is killed, what was flushed being safe.
        """
        attaching.detach(self._core, validate.fisk_id(attachment_id), force=force)

    def attachment(self, attachment_id: str) -> Attachment:
        """Give one attachment, of any host; raises NotFound."""
        found = self._core.row(validate.fisk_id(attachment_id))
        return shapes.attachment(required(found, attachment_id))

    def attachments(self, *, fisk: str | None = None, host: str | None = None) -> Attachments:
        """Give the attachments of all hosts, oldest first; of one Fisk, of one host."""
        fisk_id = self.engine.find(fisk).id if fisk is not None else None
        rows = self._core.rows(fisk_id, everywhere=True)
        shown = [row for row in rows if row.access != BUILD and host in (None, row.host)]
        return [shapes.attachment(row) for row in shown]

    def resize(self, ref: str, size: int, *, shrink: bool = False) -> Fisk:
        """Resize as the engine does, and have the access paths of this host show the new size.

        Raises PoolError where one of them cannot; the size is set then, and repeating is harmless.
        """
        fisk = self.engine.resize(ref, size, shrink=shrink)
        for row in self._core.rows(fisk.id):
            if details := row.details.get("access"):
                self._core.driver(row.access).resized(dict(details), fisk.size)
        return fisk

    # Builds

    def begin_build(self, name: str, *, size: int, **options: Any) -> Build:
        """Make a hidden Fisk and give the NBD URI where it is written; ``options`` as for the engine's.

        Nothing may be written behind the size that ``finish_build`` sets.
        """
        return builds.begin(self._core, name, size=size, **options)

    def finish_build(
        self, fisk_id: str, *, size: int, frozen: bool, attributes: Mapping[str, str] | None = None
    ) -> Fisk:
        """Make a build durable and show it; repeating is harmless.  Raises NotFound."""
        return builds.finish(self._core, fisk_id, size=size, frozen=frozen, attributes=attributes)

    def abort_build(self, fisk_id: str) -> None:
        """Leave no trace of a build; harmless when there is none."""
        builds.abort(self._core, fisk_id)

    # Workers

    def upgrade(self, ref: str | None = None) -> int:
        """Hand the worker of one Fisk, or every one and the acceptor, over to a fresh process.

        Nobody is disconnected.  Gives the number of workers; of many, one that cannot be handed over is
        logged and goes on as it is.
        """
        if ref is not None:
            self._replace(self.engine.find(ref).id)
            return 1
        self._core.network.upgrade()
        done = 0
        for fisk_id in self._core.workers.running():
            try:
                self._replace(fisk_id)
                done += 1
            except FiskError as exc:
                LOG.warning("the worker of Fisk %s goes on as it is: %s", fisk_id, exc)
        return done

    def _replace(self, fisk_id: str) -> None:
        with self._core.workers.entry(fisk_id) as entry, self._core.operation(fisk_id):
            self._core.workers.replace(entry)

    def workers(self) -> list[WorkerStatus]:
        """Ask every worker of this host how it is; one that does not answer soon is shown without that."""
        used: dict[str, int] = {}
        for row in self._core.rows():
            used[row.fisk_id] = used.get(row.fisk_id, 0) + 1
        running = sorted(self._core.workers.running().items())
        with ThreadPoolExecutor(_ASKERS) as threads:
            return list(
                threads.map(lambda item: self._status(item[0], item[1], used.get(item[0], 0)), running)
            )

    def _status(self, fisk_id: str, worker: Worker, used: int) -> WorkerStatus:
        told: dict[str, Any] = {}
        try:
            told = self._core.workers.status(fisk_id, _PATIENCE)
            told |= self._core.workers.ask(fisk_id, {"op": "metrics"}, _PATIENCE)
        except FiskError as exc:
            LOG.info("the worker of Fisk %s does not say how it is: %s", fisk_id, exc)
        keys = ("uri", "size", "map_id", "connections", "version", "started", "fenced", "failed", "metrics")
        known = {key: told[key] for key in keys if key in told}
        restarts, lingering = self._core.workers.history(fisk_id)
        return WorkerStatus(
            fisk_id, worker.pid, worker.read_only, worker.epoch, used, restarts, lingering, **known
        )


def _only_one(engine: Engine) -> locks.Lock:
    try:
        return locks.acquire(engine.home.supervisor)
    except InUse:
        raise InUse(f"another process supervises the workers of {engine.home.path}") from None

# SPDX-License-Identifier: Apache-2.0
"""The workers of this host: started, found again, handed over, ended.  One for each Fisk that is in use.

Everything that changes what serves a Fisk happens within its ``entry``, so that threads of this process come
one after the other; other processes are kept away by the Fisk's operation lock, which callers take where it
says so.  The mark ``run/<id>.worker`` is there before a worker is started and until it has ended, so that a
supervisor that comes later finds the workers no row tells of.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from signal import SIGKILL
from typing import Any

from fisk_core import locks
from fisk_core.catalog import Record, fisks
from fisk_core.dataplane import control
from fisk_core.dataplane.client_uri import parse_uri
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec, FenceOptions, TurnOptions
from fisk_core.engine import Engine, opening
from fisk_core.engine.opening import Noting
from fisk_core.errors import FiskError, NotFound, PoolError
from fisk_core.supervision.processes import end, has_ended, send
from fisk_core.supervision.watch import Watch
from fisk_core.supervision.zygotes import Zygotes

LOG = logging.getLogger(__name__)
_ATTEMPTS = 5
_ANSWER_SECONDS = 3600.0
"""How long making everything durable may take before a worker is thought to hang."""
_END_SECONDS = 15.0
_STARTING_SECONDS = 5.0
_LOOK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that serves a Fisk; ``epoch`` 0: it holds no lease.  ``since`` is of the monotonic clock.

    ``waits``: another host writes, and this one waits for its turn.
    """

    pid: int
    pidfd: int
    read_only: bool
    epoch: int
    export: str
    since: float = field(default_factory=time.monotonic)
    waits: bool = False


class Entry:
    """What is known of one Fisk's worker; to be used within :meth:`Workers.entry` only."""

    def __init__(self, fisk_id: str) -> None:
        self.fisk_id = fisk_id
        self.mutex = threading.RLock()
        self.users = 0
        self.worker: Worker | None = None
        self.failures = 0
        """ends in a row of workers that had not run for long"""
        self.restarts = 0
        self.lingering = False
        """the last reader has left; the worker stays a while"""
        self.idle_since: float | None = None
        """when a build was first seen without a client"""
        self.left_at: float | None = None
        """when the Fisk was first seen to have been let go of in order, for another host"""

    @property
    def forgettable(self) -> bool:
        return self.worker is None and not self.failures


Ended = Callable[[str, Worker], None]


class Workers:
    """The entries; ``ended`` is called with the Fisk and the worker when one has ended by itself."""

    def __init__(self, engine: Engine, watch: Watch, ended: Ended, drain_seconds: float) -> None:
        self._engine, self._watch, self._ended = engine, watch, ended
        self._drain_seconds = drain_seconds
        self.zygotes = Zygotes()
        self._watch_zygote()
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}

    def _watch_zygote(self) -> None:
        self._watch.process(os.pidfd_open(self.zygotes.pid), self._zygote_ended)

    def _zygote_ended(self) -> None:
        self.zygotes.replace_dead()
        self._watch_zygote()

    @contextmanager
    def entry(self, fisk_id: str) -> Iterator[Entry]:
        """Give a Fisk's entry, to one thread at a time."""
        with self._lock:
            entry = self._entries.setdefault(fisk_id, Entry(fisk_id))
            entry.users += 1
        try:
            with entry.mutex:
                yield entry
        finally:
            with self._lock:
                entry.users -= 1
                if not entry.users and entry.forgettable:
                    del self._entries[fisk_id]

    def running(self) -> dict[str, Worker]:
        """Give the workers there are at this moment, by Fisk."""
        with self._lock:
            entries = list(self._entries.values())
        return {each.fisk_id: each.worker for each in entries if each.worker is not None}

    def history(self, fisk_id: str) -> tuple[int, bool]:
        """Say how often a Fisk's worker was started again, and whether it only lingers."""
        with self._lock:
            entry = self._entries.get(fisk_id)
        return (entry.restarts, entry.lingering) if entry else (0, False)

    # Starting

    def start(
        self,
        entry: Entry,
        record: Record,
        *,
        writable: bool,
        export: str,
        also: Noting | None = None,
        timeout: float = 0.0,
    ) -> Worker:
        """Lock the Fisk, take the lease, start a worker; the caller holds the operation lock.

        ``also`` and ``timeout`` as for ``acquire_held``.  Raises what that raises, and what keeps the worker
        from serving; then it does not run.
        """
        # The mark is first: from the lock on there may be a process that nobody else knows of.
        mark = self._engine.home.mark(record.id)
        marked = mark.exists()
        mark.touch(mode=0o600)
        try:
            lock, epoch = self._acquire(record, writable, also, timeout)
        except BaseException:
            if not marked:  # else it may be of one that has the lock, and is still to be found
                self._unmark(record.id)
            raise
        return self.launch(entry, record, lock, writable=writable, epoch=epoch, export=export)

    def _acquire(
        self, record: Record, writable: bool, also: Noting | None, timeout: float
    ) -> tuple[locks.Lock, int]:
        """Give the Fisk's lock and the epoch of the lease, 0 for a reader."""
        epochs = [0]

        def note(conn: Any, epoch: int) -> None:
            epochs.append(epoch)
            if also is not None:
                also(conn, epoch)

        lock = opening.acquire_held(self._engine, record, writable=writable, also=note, timeout=timeout)
        return lock, epochs[-1]

    def launch(
        self, entry: Entry, record: Record, lock: locks.Lock, *, writable: bool, epoch: int, export: str
    ) -> Worker:
        """Start a worker that holds ``lock`` from now on; it is let go of here."""
        self._engine.home.mark(record.id).touch(mode=0o600)
        options = self._options(record.id, export)
        if epoch:
            options = replace(options, fence=self._fence(record.id, epoch))
        try:
            with lock:
                pid = self._spawn(record.id, options, lock, read_only=not writable)
        except BaseException:
            self._unmark(record.id)
            raise
        return self._take(entry, pid, read_only=not writable, epoch=epoch, export=export)

    def _options(self, fisk_id: str, export: str) -> ServeOptions:
        home = self._engine.home
        return ServeOptions(
            unix=str(home.socket(fisk_id)),
            reader=str(home.reader(fisk_id)),
            control=str(home.control(fisk_id)),
            export=export,
        )

    def _fence(self, fisk_id: str, epoch: int) -> FenceOptions:
        return FenceOptions(str(self._engine.home.fence(fisk_id)), epoch)

    def _spawn(self, fisk_id: str, options: ServeOptions, lock: locks.Lock, *, read_only: bool) -> int:
        for attempt in range(_ATTEMPTS):
            spec = opening.disk_spec(self._engine, fisk_id, read_only=read_only)
            try:
                return self.zygotes.spawn(spec, options, lock.fd)
            except NotFound:
                # A map of the chain below was just consolidated, and what it no longer needs removed.
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_LOOK_SECONDS * attempt)
        raise AssertionError("not reached")

    def wait_for_turn(self, entry: Entry, spec: DiskSpec, turn: TurnOptions, export: str) -> Worker:
        """Start a worker that writes nothing before :meth:`promote`; raises what keeps it from serving."""
        self._engine.home.mark(spec.fisk_id).touch(mode=0o600)
        try:
            options = replace(self._options(spec.fisk_id, export), turn=turn)
            pid = self.zygotes.spawn(spec, options, None)
        except BaseException:
            self._unmark(spec.fisk_id)
            raise
        return self._take(entry, pid, read_only=True, epoch=0, export=export, waits=True)

    def promote(
        self, entry: Entry, record: Record, *, also: Noting | None = None, timeout: float = 0.0
    ) -> Worker:
        """Lock the Fisk, take the lease, and have the worker that waits for it write; as for :meth:`start`.

        One that cannot is replaced: its clients come back to the same address.
        """
        waiting = entry.worker
        if waiting is None:
            raise NotFound(f"no worker waits for Fisk {entry.fisk_id} on this host")
        lock, epoch = self._acquire(record, True, also, timeout)
        try:
            spec = opening.disk_spec(self._engine, record.id, read_only=False)
            request = {"op": "promote", "spec": asdict(spec), "fence": asdict(self._fence(record.id, epoch))}
            control.call(self._engine.home.control(record.id), request, give=[os.dup(lock.fd)])
        except FiskError as exc:
            LOG.warning("the worker that waited for Fisk %s cannot go on: %s", entry.fisk_id, exc)
            self.stop(entry, orderly=False)
            return self.launch(entry, record, lock, writable=True, epoch=epoch, export=waiting.export)
        except BaseException:
            lock.release()
            raise
        lock.release()  # the worker has it, too
        self._drop(entry)
        return self._take(entry, waiting.pid, read_only=False, epoch=epoch, export=waiting.export)

    def _take(
        self, entry: Entry, pid: int, *, read_only: bool, epoch: int, export: str, waits: bool = False
    ) -> Worker:
        """Note a worker that serves, and watch it."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise PoolError(f"the worker of Fisk {entry.fisk_id} ended as soon as it had started") from None
        worker = entry.worker = Worker(pid, pidfd, read_only, epoch, export, waits=waits)
        entry.lingering, entry.idle_since, entry.left_at = False, None, None
        self._watch.process(os.dup(pidfd), lambda: self._ended(entry.fisk_id, worker))
        return worker

    # Finding

    def find(self, entry: Entry, patience: float = _STARTING_SECONDS) -> Worker | None:
        """Take over the supervised worker that serves the Fisk already, if there is one.

        Waits up to ``patience`` seconds for one that does not listen yet, started by a supervisor that was
        killed meanwhile: such a one holds the Fisk's lock.  Readers share that, so a second one would be
        started beside it.
        """
        home = self._engine.home
        deadline = time.monotonic() + patience
        while home.mark(entry.fisk_id).exists():
            with suppress(FiskError):
                return self._find(entry)
            if time.monotonic() >= deadline or not locks.is_held(home.lock(entry.fisk_id)):
                break
            time.sleep(_LOOK_SECONDS)
        return None

    def _find(self, entry: Entry) -> Worker:
        first = self.status(entry.fisk_id)
        worker = self._take(
            entry,
            first["pid"],
            read_only=first["read_only"],
            epoch=first["epoch"] or 0,
            export=parse_uri(first["uri"]).export,
            waits=bool(first.get("turn")),
        )
        # The same answer after its descriptor was opened: the id did not go to another process before.
        if self.status(entry.fisk_id)["pid"] != worker.pid:
            self._drop(entry)
            raise NotFound("the worker was replaced meanwhile")
        return worker

    def status(self, fisk_id: str, timeout: float = 5.0) -> dict[str, Any]:
        """Ask a worker how it is; raises NotFound, PoolError."""
        return self.ask(fisk_id, {"op": "status"}, timeout)

    def ask(self, fisk_id: str, request: dict[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        return control.call(self._engine.home.control(fisk_id), request, timeout)

    # Ending

    def alive(self, entry: Entry) -> Worker | None:
        """Give the worker if it runs; one that ended is let go of, its end being noticed here first."""
        worker = entry.worker
        if worker is not None and has_ended(worker.pidfd):
            self._ended(entry.fisk_id, worker)
        return entry.worker

    def stop(self, entry: Entry, *, orderly: bool = True, hurry: bool = False) -> None:
        """End the worker, when all is durable if ``orderly``; it has ended when this returns.

        ``hurry``: one that takes long is killed.  One that cannot make everything durable says so in the log
        and ends too: what was acknowledged as flushed is safe, and whoever asked for a flush since then got
        an error.
        """
        worker = entry.worker
        if worker is not None and orderly:
            try:
                if worker.waits:
                    self.ask(entry.fisk_id, {"op": "stop"})  # nothing of its clients' is kept by it
                else:
                    patience = self._drain_seconds + _END_SECONDS if hurry else _ANSWER_SECONDS
                    self._drain(entry.fisk_id, patience)
            except FiskError as exc:
                LOG.info("the worker of Fisk %s does not drain, and is told to end: %s", entry.fisk_id, exc)
        elif worker is not None:
            send(worker.pidfd, SIGKILL)
        self._see_off(entry)

    def finish(self, entry: Entry) -> None:
        """End the worker when all is durable; raises what keeps it from being so."""
        if entry.worker is None:
            raise PoolError(f"no worker serves Fisk {entry.fisk_id} at this moment")
        try:
            self._drain(entry.fisk_id, _ANSWER_SECONDS)
        finally:
            self._see_off(entry)

    def _drain(self, fisk_id: str, timeout: float) -> None:
        self.ask(fisk_id, {"op": "drain", "seconds": self._drain_seconds}, timeout)

    def _see_off(self, entry: Entry) -> None:
        if entry.worker is not None:
            end(entry.worker.pidfd, _END_SECONDS)
            self.let_go(entry)
        entry.failures = 0
        self._remove_sockets(entry.fisk_id)
        self._unmark(entry.fisk_id)  # last: by the mark the next supervisor finds what is left to be done

    def _remove_sockets(self, fisk_id: str) -> None:
        """Remove what a killed worker had no time to; they stay while anybody has the Fisk's lock."""
        home = self._engine.home
        present = [
            path
            for path in (home.control(fisk_id), home.socket(fisk_id), home.reader(fisk_id))
            if path.exists()
        ]
        if present and not locks.is_held(home.lock(fisk_id)):
            for path in present:
                path.unlink(missing_ok=True)

    def let_go(self, entry: Entry) -> int | None:
        """Forget a worker that has ended; gives its exit status if that is known."""
        worker = entry.worker
        if worker is None:
            return None
        self._drop(entry)
        return self.zygotes.status(worker.pid)

    def _drop(self, entry: Entry) -> None:
        worker, entry.worker, entry.lingering = entry.worker, None, False
        if worker is not None:
            os.close(worker.pidfd)

    def _unmark(self, fisk_id: str) -> None:
        self._engine.home.mark(fisk_id).unlink(missing_ok=True)

    # Replacing

    def replace(self, entry: Entry) -> None:
        """Have a fresh process go on where the worker stops; the caller holds the operation lock."""
        old = entry.worker
        if old is None:
            raise NotFound(f"no worker serves Fisk {entry.fisk_id} on this host")
        pid = self.zygotes.succeed(str(self._engine.home.control(entry.fisk_id)))
        end(old.pidfd, _END_SECONDS)
        self.let_go(entry)
        self._take(entry, pid, read_only=old.read_only, epoch=old.epoch, export=old.export)

    def close(self) -> None:
        """Let go of all workers; they go on."""
        self.zygotes.close()
        with self._lock:
            for entry in self._entries.values():
                self._drop(entry)
            self._entries.clear()


def find_record(engine: Engine, fisk_id: str) -> Record | None:
    """Give the row of a Fisk, also of one being built; None when it is gone."""
    with engine.catalog.read() as conn:
        return fisks.try_find(conn, fisk_id)

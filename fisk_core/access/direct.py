# SPDX-License-Identifier: Apache-2.0
"""Access path ``direct``: one ordinary file of the pool, handed out with no code of ours in the way.

Attaching a live Fisk begins a period whose layer is whole: assembled by sharing extents, with a log that
says that it owns every block.  That layer is the file.  So nothing has to be taken back: at any moment, also
after a crash, the Fisk reads what the file holds.

Order of attaching; the Fisk's operation lock and its lock are held:

1. the present period is sealed;
2. files of the new one, durable and complete; a crash leaves files nobody names, which are swept;
3. transaction: the Fisk is in the new period, its writer's epoch one higher; a crash leaves a Fisk like any
   other;
4. the mark beside the lock, durably: from here on nobody else writes, whether the lock is held or not;
5. the keeper gets the lock and answers for the Fisk, and the link leads to the file.

Detaching: the keeper ends; a snapshot it was in the middle of is finished; the log is trimmed to what was
written; the mark goes.  A crash in between leaves the mark, and detaching begins again.
"""

import fcntl
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fisk_core import locks
from fisk_core.access import whole
from fisk_core.access.base import AccessPath, Details
from fisk_core.access.file import refuse_unknown
from fisk_core.access.helpers import Helper
from fisk_core.access.keeper import Task
from fisk_core.blockmap import create_log, seal
from fisk_core.catalog import Record, leases, maps
from fisk_core.dataplane.lines import call
from fisk_core.engine import access, freezing, opening
from fisk_core.engine.operating import OPERATION_SECONDS, operating
from fisk_core.errors import FiskError, InUse, InvalidValue, NotFound, from_oserror
from fisk_core.model import Fisk
from fisk_core.pools.base import Kind
from fisk_core.services import sweep

_MODULE = "fisk_core.access.keeper"
_LEAST_BLOCK = 4096


class Direct(AccessPath):
    """No options.  Read-only for frozen Fisks, alone and writable for live ones."""

    name = "direct"
    needs_worker = False
    exclusive = True

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        self.require()
        refuse_unknown(options, known=())
        if read_only != fisk.frozen:
            raise InvalidValue(
                "'direct' is read-only for frozen Fisks and writable for live ones; snapshot it to read it"
            )
        if fisk.block_size < _LEAST_BLOCK:
            raise InvalidValue(
                f"'direct' needs blocks of {_LEAST_BLOCK} bytes or more; file systems share no less"
            )
        whole.require_reflink(self.context.open_pool(fisk.pool))
        return {"directory": str(directory), "fisk": fisk.id, "read_only": read_only}

    def connect(self, details: Details) -> str | None:
        link, helper = _parts(details)
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.alive(details):
            helper.end()
            lock = self._lock_frozen(details) if details["read_only"] else self._begin(details)
            with lock:
                record = self.context.find(details["fisk"])
                helper.start(self._command(record, details), pass_fds=[lock.fd])
            helper.wait_until(lambda: self.alive(details))
        return str(link)

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        link, helper = _parts(details)
        if not (force or details["read_only"]):  # who has a frozen Fisk's file open just keeps it
            _require_closed(link)
        try:
            self._end(details, helper)
        except NotFound:  # the Fisk was deleted by force
            helper.end()
        link.unlink(missing_ok=True)
        link.with_name(f"{link.name}.new").unlink(missing_ok=True)
        helper.remove()
        with suppress(FileNotFoundError):
            link.parent.rmdir()

    def alive(self, details: Details) -> bool:
        link, helper = _parts(details)
        if not (helper.running and link.exists()):
            return False
        return bool(details["read_only"]) or self._answers(details["fisk"])

    def resized(self, details: Details, size: int) -> None:
        """The keeper made the file grow already."""

    def _answers(self, fisk_id: str) -> bool:
        try:
            call(self.context.home.control(fisk_id), {"op": "status"})
        except FiskError:
            return False
        return True

    def _lock_frozen(self, details: Details) -> locks.Lock:
        return opening.acquire(self.context, details["fisk"], writable=False)

    def _begin(self, details: Details) -> locks.Lock:
        """Have the Fisk in a whole period, marked as ours; gives its lock."""
        fisk_id, mark = details["fisk"], self.context.home.direct(details["fisk"])
        if mark.exists():
            with self._operation(fisk_id):
                _require_mine(mark, details)
                return locks.acquire(self.context.home.lock(fisk_id))
        with operating(self.context, fisk_id) as (record,):
            lock = access.take(self.context, record, shared=False)
            try:
                self._begin_period(record)
                _write_mark(mark, details)
            except BaseException:
                lock.release()
                raise
            return lock

    def _begin_period(self, record: Record) -> None:
        context, pool = self.context, self.context.open_pool(record.pool)
        if record.opened:
            seal(pool, record.map_id)
        source = context.load_map(record)
        row = freezing.new_period(record, record.readable_map, record.size)
        try:
            with context.making():
                header = access.header_of(record, row["id"], row["base"], row["base_size"])
                create_log(pool, header)
                with pool.open_device(Kind.LAYER, row["id"], writable=True) as layer:
                    layer.truncate(0)
                    [(fd, _, _)] = layer.route(0, 0)
                    whole.assemble(pool, source, fd, f"Fisk '{record.name}'")
                whole.own_all(pool, header, record.size)
                with context.catalog.change() as conn:
                    if record.opened:
                        maps.mark_sealed(conn, record.map_id, record.size)
                    maps.begin_period(conn, record, row)
                    maps.mark_opened(conn, row["id"], row["pool_id"])
                    leases.take(conn, record.id, context.holder)
                    garbage = maps.drop_unneeded(conn, [record.map_id])
        finally:
            source.close()
        sweep.remove(context, garbage)
        context.settler.notify()

    def _command(self, record: Record, details: Details) -> list[str]:
        home = self.context.home
        current = record
        if not details["read_only"] and record.base_sealed is False and record.base_id is not None:
            # A snapshot was interrupted.  The engine will ask for it again; until then the file is ...
            pool = self.context.open_pool(record.pool)
            if not whole.is_current(pool, record.base_id, record.map_id):
                current = record._replace(map_id=record.base_id)  # ... still the layer of the old period
        spec = access.spec_of(self.context, current, read_only=details["read_only"])
        task = Task(
            spec=asdict(spec),
            path=str(_parts(details)[0]),
            control=str(home.control(record.id)),
            making=str(home.making),
            trimming=str(home.trimming),
            mark=str(home.direct(record.id)),
        )
        return [sys.executable, "-m", _MODULE, json.dumps(asdict(task))]

    def _operation(self, fisk_id: str) -> locks.Lock:
        return locks.acquire(self.context.home.operation(fisk_id), timeout=OPERATION_SECONDS)

    def _end(self, details: Details, helper: Helper) -> None:
        fisk_id, mark = details["fisk"], self.context.home.direct(details["fisk"])
        with self._operation(fisk_id):
            helper.end()
            if details["read_only"] or not mark.exists():
                return
            _require_mine(mark, details)
            with locks.acquire(self.context.home.lock(fisk_id)):
                record = self.context.find(fisk_id)
                self._take_back(record)
                mark.unlink()
                _sync_directory(mark.parent)
        self.context.finish(fisk_id)

    def _take_back(self, record: Record) -> None:
        """Have the Fisk in a period like any other; everything here may be done again."""
        pool = self.context.open_pool(record.pool)
        if record.base_sealed is False and record.base_id is not None:
            with self.context.making():
                whole.continue_in(pool, record.base_id, record.map_id, record.size, lambda _: None)
            whole.trim(pool, record.base_id, record.base_size, self.context.home.trimming)
        seal(pool, record.map_id)
        whole.trim(pool, record.map_id, record.size, self.context.home.trimming)


def _parts(details: Details) -> tuple[Path, Helper]:
    directory = Path(details["directory"])
    return directory / "disk.raw", Helper(directory, "keeper")


def _require_closed(link: Path) -> None:
    """Raise InUse while any process has the file open: a write lease is given only when none has."""
    try:
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        raise InUse(f"{link} is open in some process; close it, or force") from None
    except OSError as exc:
        raise from_oserror(exc, f"find out who has {link} open") from exc
    finally:
        os.close(fd)


def _write_mark(mark: Path, details: Details) -> None:
    new = mark.with_name(f"{mark.name}.new")
    with new.open("w") as file:
        file.write(details["directory"])
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, mark)
    _sync_directory(mark.parent)


def _require_mine(mark: Path, details: Details) -> None:
    if mark.read_text() != details["directory"]:
        raise InUse("the Fisk is attached as 'direct' elsewhere")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

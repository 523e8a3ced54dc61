# SPDX-License-Identifier: Apache-2.0
"""A writer that is killed: its journal is replayed by who comes next, and interrupted snapshots finished."""

from contextlib import ExitStack
from functools import partial

from fisk_core.dataplane.disk import Disk
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from proof.faults.scenarios import scenario
from proof.faults.scenarios.verbs import used
from proof.faults.stage import BLOCK, PAGE, Drive, Stage, serving


def _writer(engine: Engine, name: str) -> Disk:
    """Open a disk as a worker does, with a journal."""
    lock = engine.acquire(name, True)
    try:
        return Disk.open(None, engine.disk_spec(name, False))
    finally:
        lock.release()  # the play has no other process that would come between


@scenario("a journal is replayed", used)
def replayed(stage: Stage) -> None:
    """Killed with changes that nobody flushed; what was acknowledged is there afterwards."""
    with stage.engine() as engine:
        if engine is None:
            return
        for name in ("one", "two"):
            _, disk = stage.attempt(f"open {name}", partial(_writer, engine, name))
            if disk is None:
                continue
            drive = Drive(stage, name, disk)
            drive.write(PAGE, 3 * BLOCK)
            drive.flush()
            drive.write(2 * PAGE, PAGE)
            drive.write(6 * PAGE + 200, 900)
            drive.trim(0, PAGE)
            for turn in range(300):  # more changes than one read of the journal gives
                drive.trim((40 + turn % 50) * BLOCK, BLOCK)
            disk.abandon()
            if drive.broken or stage.sync_failed:
                stage.lossy.add(name)
        with stage.writing(engine, "one") as again:
            if again is not None:
                again.read()
                again.write(3 * PAGE, BLOCK)
        if stage.sync_failed:
            stage.lossy.update(("one", "two"))
        stage.snapshot(engine, "two", "after")
        if stage.sync_failed:
            stage.lossy.update(("two", "after"))


@scenario("periods change under a writer", used)
def periods(stage: Stage) -> None:
    """What a worker does at a snapshot: it goes on in a new period, and then the old one is sealed."""
    with stage.engine() as engine:
        if engine is None:
            return
        _, disk = stage.attempt("open one", lambda: _writer(engine, "one"))
        if disk is None:
            return
        drive = Drive(stage, "one", disk)
        drive.write(PAGE, 3 * BLOCK)
        _switch(stage, engine, drive)
        drive.write(2 * PAGE, 3 * BLOCK)
        drive.read()
        drive.flush()
        drive.write(3 * PAGE, BLOCK)
        drive.close()


@scenario("two served Fisks are snapshotted together", used, slow=True)
def together(stage: Stage) -> None:
    """Their workers are processes of their own, and see no fault."""
    with stage.injecting(False), ExitStack() as stack:
        with Engine.open(stage.home) as engine:
            for name in ("one", "two"):
                stack.enter_context(serving(engine, name))
        with stage.injecting(True):
            _snapshot_both(stage)


def _snapshot_both(stage: Stage) -> None:
    with stage.engine() as engine:
        if engine is not None:
            pairs = [("one", "one-then"), ("two", "two-then")]
            done, _ = stage.attempt("snapshot both", lambda: engine.group_snapshot(pairs))
            for source, name in pairs:
                stage.hold(name, stage.fisks[source][0].copy(), certain=done)


def _switch(stage: Stage, engine: Engine, drive: Drive) -> None:
    """Do both sides of a switch, in the order of ``freezing``."""
    from fisk_core.blockmap import create_log
    from fisk_core.catalog import maps
    from fisk_core.engine import access
    from fisk_core.engine.freezing import new_period

    record = engine.find("one")
    row = new_period(record, record.map_id, record.size)

    def name_it() -> None:
        with engine.making():
            create_log(engine.open_pool(), access.header_of(record, row["id"], record.map_id, record.size))
            with engine.catalog.change() as conn:
                maps.begin_period(conn, record, row)
                maps.mark_opened(conn, row["id"], row["pool_id"])

    def switch() -> None:
        flush = drive.disk.begin_period(engine.disk_spec("one", False))
        error: FiskError | None = None
        begun = [(oracle, oracle.flush()) for oracle in drive.oracles]
        try:
            flush.run()
        except FiskError as exc:
            error = exc
        drive.disk.end_flush(flush, error)
        flush.period.end(durable=error is None)
        if error is not None:
            raise error
        for oracle, begun_flush in begun:
            oracle.end_flush(begun_flush)

    if stage.attempt("name the new period", name_it)[0]:
        stage.attempt("switch", switch)
        drive._notice()

# SPDX-License-Identifier: Apache-2.0
"""A disk opened in process: every way to change it, flushes between them, its log compacted."""

from fisk_core.blockmap import log
from proof.faults.scenarios import scenario
from proof.faults.stage import BLOCK, PAGE, Drive, Stage


def _empty(stage: Stage) -> None:
    """A home directory with a pool, and one Fisk that nobody opened yet."""
    with stage.engine() as engine:
        assert engine is not None
        stage.create(engine, "disk")


def _written(stage: Stage) -> None:
    """A Fisk with a snapshot below it, and written to since."""
    with stage.engine() as engine:
        assert engine is not None
        stage.create(engine, "disk")
        with stage.writing(engine, "disk") as drive:
            assert drive is not None
            drive.write(0, 8 * PAGE)
        stage.snapshot(engine, "disk", "before")
        with stage.writing(engine, "disk") as drive:
            assert drive is not None
            drive.write(PAGE, PAGE)


@scenario("first writes", _empty)
def first_writes(stage: Stage) -> None:
    """A Fisk gets its files, is written to in every way and flushed, and closed."""
    with stage.engine() as engine:
        if engine is None:
            return
        with stage.writing(engine, "disk") as drive:
            if drive is not None:
                _changes(drive)
        with stage.writing(engine, "disk") as drive:
            if drive is not None:
                drive.read()


@scenario("writes above a snapshot", _written)
def writes_above(stage: Stage) -> None:
    """The same where blocks come from a layer below, so that parts of blocks are read first."""
    with stage.engine() as engine:
        if engine is None:
            return
        with stage.writing(engine, "disk") as drive:
            if drive is not None:
                _changes(drive)
                drive.read()


def _changes(drive: Drive) -> None:
    drive.write(0, 4 * BLOCK)
    drive.write(3 * PAGE + 100, 700)
    drive.flush()
    drive.write(0, BLOCK)
    drive.trim(PAGE, 2 * PAGE)
    drive.zero(5 * PAGE + 10, PAGE)
    drive.zero(7 * PAGE, PAGE, allocate=True)
    drive.flush()
    drive.write(PAGE, 3 * BLOCK)
    drive.read()
    drive.flush()
    drive.write(9 * PAGE, BLOCK)


@scenario("a log that is compacted", _empty)
def compaction(stage: Stage) -> None:
    """The log is replaced by a shorter one again and again."""
    log.COMPACT_AT = 4 * log.SECTOR
    with stage.engine() as engine:
        if engine is None:
            return
        with stage.writing(engine, "disk") as drive:
            if drive is not None:
                for turn in range(6):
                    drive.write(turn % 3 * PAGE, BLOCK)
                    drive.flush()
                drive.read()

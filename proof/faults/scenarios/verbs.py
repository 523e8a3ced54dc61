# SPDX-License-Identifier: Apache-2.0
"""Verbs on Fisks that nobody serves: creating, freezing, copying, changing the size, deleting."""

from proof.faults.scenarios import scenario
from proof.faults.stage import BLOCK, PAGE, SIZE, Stage


def nothing(stage: Stage) -> None:
    """Not even a home directory."""


def used(stage: Stage) -> None:
    """A Fisk that was written to, one with a snapshot, one that nobody opened."""
    with stage.engine() as engine:
        assert engine is not None
        for name in ("one", "two", "unused"):
            stage.create(engine, name)
        for name in ("one", "two"):
            with stage.writing(engine, name) as drive:
                assert drive is not None
                drive.write(0, 4 * PAGE)
        stage.snapshot(engine, "two", "two-before")
        with stage.writing(engine, "two") as drive:
            assert drive is not None
            drive.write(PAGE, PAGE)


@scenario("a home directory and a pool are made", nothing)
def made(stage: Stage) -> None:
    """The first command on a host."""
    with stage.engine() as engine:
        if engine is None:
            return
        stage.create(engine, "first")
        with stage.writing(engine, "first") as drive:
            if drive is not None:
                drive.write(0, PAGE)


@scenario("snapshots and clones", used)
def copies(stage: Stage) -> None:
    """What is frozen becomes blobs in the background, and logs go."""
    with stage.engine() as engine:
        if engine is None:
            return
        stage.snapshot(engine, "one", "s1")
        stage.clone(engine, "one", "c1")
        with stage.writing(engine, "c1") as drive:
            if drive is not None:
                drive.write(0, BLOCK)
        stage.attempt("settle", engine.settle)
        stage.snapshot(engine, "two", "s2")
        stage.clone(engine, "s2", "c2")
        stage.attempt("settle", engine.settle)


@scenario("sizes, reverts, deletions", used)
def changes(stage: Stage) -> None:
    """Files go after the transaction that forgets them."""
    with stage.engine() as engine:
        if engine is None:
            return
        stage.resize(engine, "one", 2 * SIZE)
        stage.resize(engine, "one", SIZE // 2 + 512, shrink=True)
        stage.resize(engine, "unused", SIZE // 2, shrink=True)
        stage.revert(engine, "two", "two-before")
        with stage.writing(engine, "two") as drive:
            if drive is not None:
                drive.write(2 * PAGE, BLOCK)
        stage.attempt("settle", engine.settle)
        stage.delete(engine, "two-before")
        stage.delete(engine, "one")
        _, lock = stage.attempt("use", lambda: engine.acquire("unused", False))
        if lock is not None:
            with lock:
                stage.refused("delete what is used", lambda: engine.delete("unused"))
        stage.delete(engine, "unused", force=True)

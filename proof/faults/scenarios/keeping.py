# SPDX-License-Identifier: Apache-2.0
"""Looking after things: what they do twice must be the same as once, and what fails is done the next time."""

import shutil
import uuid
from functools import partial

from fisk_core.engine import Engine
from fisk_core.pools.base import Kind
from proof.faults.scenarios import scenario
from proof.faults.stage import BLOCK, PAGE, SIZE, Stage
from proof.oracle import Oracle


def _generations(stage: Stage, pool: dict[str, str] | None = None) -> None:
    """Snapshots of a Fisk that is overwritten between them, some of them deleted."""
    with stage.engine() as engine:
        assert engine is not None
        if pool is not None:
            engine.create_pool("sums", "file", pool)
        name = "disk"
        stage.create(engine, name, pool="sums" if pool is not None else None)
        for turn in range(4):
            with stage.writing(engine, name) as drive:
                assert drive is not None
                drive.write(turn * PAGE, 8 * PAGE)
                drive.trim((turn + 2) * PAGE, PAGE)
            stage.snapshot(engine, name, f"s{turn}")
        stage.clone(engine, "s1", "copy")
        with stage.writing(engine, "copy") as drive:
            assert drive is not None
            drive.write(3 * PAGE, BLOCK)
        engine.settle()
        stage.delete(engine, "s0")
        stage.delete(engine, "s2")


@scenario("a collection", _generations)
def collection(stage: Stage) -> None:
    """Blocks that no map points to are given back; all others stay."""
    with stage.engine() as engine:
        if engine is not None:
            stage.attempt("collect", engine.collect)


def _rubbish(stage: Stage) -> None:
    """What crashes leave: files without a row, temporary ones, locks and journals of nobody."""
    _generations(stage)
    with Engine.open(stage.home) as engine:
        half = engine.begin_build("half", size=SIZE)
        half.disk.close()
        half._lock.release()  # as when its process died
    pool, run = stage.home / "pools" / "default", stage.home / "run"
    for folder in ("layers", "logs"):
        found = next(path for path in (pool / folder).rglob("*") if path.is_file())
        name = f"{found.name[:2]}{str(uuid.UUID(int=7))[2:]}"
        shutil.copy(found, found.with_name(name))
    blob = next(path for path in (pool / "blobs" / "maps").iterdir())
    shutil.copy(blob, blob.with_name(str(uuid.UUID(int=8))))
    for place in (pool / "staging", pool / "blobs" / "maps"):
        (place / ".0123456789abcdef.tmp").touch()
    for suffix in ("lock", "op", "journal", "fence"):
        (run / f"{uuid.UUID(int=9)}.{suffix}").touch()


@scenario("a check that repairs", _rubbish)
def repaired(stage: Stage) -> None:
    """Rubbish goes, nothing else does."""
    with stage.engine() as engine:
        if engine is None:
            return
        stage.attempt("check", engine.check)
        stage.attempt("repair", lambda: engine.check(repair=True))


def _no_catalog(stage: Stage) -> None:
    """The catalog is lost."""
    _generations(stage)
    with stage.engine() as engine:
        assert engine is not None
        engine.settle()
    for path in stage.home.glob("catalog.sqlite*"):
        path.unlink()


@scenario("a lost catalog is rebuilt", _no_catalog)
def rescanned(stage: Stage) -> None:
    """All of it or nothing; and what failed is done again."""
    with stage.engine() as engine:
        done, _ = stage.attempt("rescan", lambda: engine.rescan("default")) if engine else (False, None)

    def again(engine: Engine) -> None:
        if not done:
            engine.rescan("default", force=True)

    stage.finish = again


def _with_sums(stage: Stage) -> None:
    _generations(stage, {"path": str(stage.base / "pool"), "checksum": "crc32"})


@scenario("a scrub", _with_sums)
def scrubbed(stage: Stage) -> None:
    """What cannot be read is named; what can is not called damaged."""
    with stage.engine() as engine:
        if engine is None:
            return
        done, report = stage.attempt("scrub", engine.scrub)
        if done and report is not None and not report.ok and not stage.injector.met:
            stage.blame(f"the scrub found {report.problems}")


@scenario("writes with checksums", _with_sums)
def summed(stage: Stage) -> None:
    """Each block has its checksum, or is known not to."""
    with stage.engine() as engine:
        if engine is None:
            return
        for _ in range(2):
            with stage.writing(engine, "disk") as drive:
                if drive is not None:
                    drive.write(0, PAGE)
                    drive.write(9 * PAGE + 100, 900)
                    drive.flush()
                    drive.write(0, BLOCK)
                    drive.read()
                    drive.zero(2 * PAGE, PAGE, allocate=True)
                    drive.flush()
                    drive.trim(PAGE, PAGE)
        stage.snapshot(engine, "disk", "after")
        stage.attempt("settle", engine.settle)


def _two_pools(stage: Stage) -> None:
    with stage.engine() as engine:
        assert engine is not None
        engine.create_pool("other", "file", {"path": str(stage.base / "other")})
    _generations(stage)


@scenario("a Fisk moves to another pool", _two_pools)
def moved(stage: Stage) -> None:
    """Whatever happens it is in one of the two, as a whole."""
    with stage.engine() as engine:
        if engine is None:
            return
        stage.attempt("move disk", lambda: engine.move("disk", "other"))
        stage.attempt("move s1", lambda: engine.move("s1", "other"))
        with stage.writing(engine, "disk") as drive:
            if drive is not None:
                drive.write(PAGE, BLOCK)


@scenario("a pool is made and looked at", lambda stage: None)
def pooled(stage: Stage) -> None:
    """By its own verbs; a directory becomes a pool in one step."""
    where = stage.base / "made" / "deep"
    with stage.engine() as engine:
        if engine is None:
            return
        options = {"path": str(where)}
        done, _ = stage.attempt("make a pool", lambda: engine.create_pool("mine", "file", options))
        if not done:
            stage.attempt("make the pool again", lambda: engine.create_pool("mine", "file", options))
        stage.attempt("look at it", lambda: engine.pool("mine"))
        done, _ = stage.attempt("use it", lambda: engine.create("f", 1 << 20, pool="mine"))
        stage.hold("f", Oracle(1 << 20), certain=done)
        stage.attempt("its usage", lambda: engine.usage("f"))
        dangling = stage.base / "dangling"
        dangling.symlink_to(stage.base / "nowhere")
        for path in (dangling, stage.base / "missing"):
            stage.refused("a pool that is none", partial(engine.rescan, "no", options={"path": str(path)}))
        at_link = {"path": str(dangling)}
        stage.refused("a pool at a dangling link", lambda: engine.create_pool("no", "file", at_link))
        _pool_verbs(stage, engine)


def _pool_verbs(stage: Stage, engine: Engine) -> None:
    """What third parties and tests call of a pool, and the engine does not."""
    _, pool = stage.attempt("open the pool", lambda: engine.open_pool("mine"))
    if pool is None:
        return
    name = str(uuid.UUID(int=5))
    _, device = stage.attempt("make a layer", lambda: pool.create_device(Kind.LAYER, name, 1 << 20))
    if device is not None:
        stage.attempt("write to it", lambda: device.pwritev([bytes(PAGE), bytes(PAGE)], PAGE))
        stage.attempt("look for data", lambda: list(device.data_extents(0, 1 << 20)))
        device.close()
    stage.attempt("its size", lambda: pool.usage(Kind.LAYER, name))
    stage.attempt("the largest", lambda: pool.largest_device)
    stage.attempt("forget it", lambda: pool.delete_device(Kind.LAYER, name))
    stage.attempt("sync names", pool.sync_names)
    stage.attempt("space", pool.space)

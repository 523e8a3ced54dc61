# SPDX-License-Identifier: Apache-2.0
"""A home with every kind of file in it, small, and what each of its Fisks reads as."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Self

from fisk_core import locks
from fisk_core.blockmap import read_log_header
from fisk_core.catalog import fisks
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.engine import Engine
from fisk_core.pools.base import Pool
from fisk_core.services import settle

BLOCK, PAGE = 1024, 4096
SIZE = 24 * PAGE + BLOCK // 2  # the last block is a short one
PLAIN, SUMMED = "plain", "summed"
_FAMILIES = {
    "map": "blobs/maps",
    "header": "blobs/fisks",
    "end": "blobs/ends",
    "log": "logs",
    "sums": "sums",
    "layer": "layers",
}


@dataclass(frozen=True)
class View:
    """A Fisk, how it is read, and as what."""

    name: str
    pool: str
    spec: DiskSpec
    content: bytes
    needs: frozenset[str]
    """the maps and layers that it is read through"""


@dataclass
class Specimen:
    """The home; closing it closes the engine."""

    engine: Engine
    views: list[View] = field(default_factory=list)
    older: dict[Path, list[bytes]] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def path(self, pool: str) -> Path:
        """Give the directory of a pool."""
        return self.engine.home.pool(pool)

    def files(self, pool: str, kind: str) -> list[Path]:
        """Give the files of a kind in a pool."""
        return sorted(path for path in (self.path(pool) / _FAMILIES[kind]).rglob("*") if path.is_file())

    def remember(self) -> None:
        """Keep what files hold now that may hold something else later."""
        for pool in (PLAIN, SUMMED):
            for kind in _FAMILIES:
                for path in self.files(pool, kind):
                    self._keep(path)
        self._keep(Path(self.engine.home.path / "catalog.sqlite"))

    def _keep(self, path: Path) -> None:
        data = path.read_bytes()
        kept = self.older.setdefault(path, [])
        if data not in kept:
            kept.append(data)


def build(home: Path, chance: Random) -> Specimen:
    """Make it: two pools, each with a chain of frozen maps, clones, and periods being written."""
    specimen = Specimen(Engine.open(home))
    engine = specimen.engine
    specimen.stack.callback(engine.close)
    try:
        for pool, options in ((PLAIN, {}), (SUMMED, {"checksum": "crc32"})):
            engine.create_pool(pool, options=options)
            _first(engine, pool, chance)
        engine.settle()
        specimen.remember()
        # From here on frozen maps stay logs on top of each other.
        specimen.stack.enter_context(locks.acquire(engine.home.lock_path / "settle.lock"))
        for pool in (PLAIN, SUMMED):
            _second(specimen, pool, chance)
        with engine.catalog.read() as conn:
            waiting = fisks.unpublished(conn)
        settle.publish(engine, waiting)
        specimen.views += _views(engine)
    except BaseException:
        specimen.stack.close()
        raise
    return specimen


def scribble(disk: Disk, chance: Random, count: int) -> None:
    """Write, zero and trim here and there, with some flushes."""
    for _ in range(count):
        offset = chance.randrange(SIZE)
        length = min(SIZE - offset, chance.choice((40, BLOCK, 3 * BLOCK, PAGE, 3 * PAGE)))
        act = chance.random()
        if act < 0.8:
            disk.write(offset, chance.randbytes(length))
        elif act < 0.9:
            disk.trim(offset, length)
        else:
            disk.write_zeroes(offset, length, allocate=True)
        if chance.random() < 0.3:
            disk.flush()


def _write(engine: Engine, name: str, chance: Random, count: int) -> None:
    with engine.open_disk(name, writable=True) as disk:
        scribble(disk, chance, count)


def _first(engine: Engine, pool: str, chance: Random) -> None:
    for name in (f"{pool}-volume", f"{pool}-other"):
        engine.create(name, SIZE, pool=pool, block_size=BLOCK, page_size=PAGE)
        _write(engine, name, chance, 12)
    engine.snapshot(f"{pool}-volume", f"{pool}-first")
    engine.clone(f"{pool}-first", f"{pool}-clone")
    for name in (f"{pool}-volume", f"{pool}-clone"):
        _write(engine, name, chance, 6)


def _second(specimen: Specimen, pool: str, chance: Random) -> None:
    engine = specimen.engine
    _write(engine, f"{pool}-volume", chance, 6)
    specimen.remember()
    engine.snapshot(f"{pool}-volume", f"{pool}-second")
    for name in (f"{pool}-volume", f"{pool}-clone", f"{pool}-other"):
        for _ in range(2):
            _write(engine, name, chance, 5)
            specimen.remember()


def _views(engine: Engine) -> Iterator[View]:
    for fisk in engine.list():
        spec = replace(engine.disk_spec(fisk, read_only=True), journal=None)
        with Disk.open(engine.open_pool(fisk.pool), spec) as disk:
            needs = {layer for layer in disk.map.layers if layer} | set(_chain(disk.pool, spec))
            yield View(fisk.name, fisk.pool, spec, disk.read(0, disk.size), frozenset(needs))


def _chain(pool: Pool, spec: DiskSpec) -> Iterator[str]:
    following = spec.map_id if spec.opened else spec.base_id
    while following is not None:
        yield following
        if pool.has_blob(f"maps/{following}"):
            return
        following = read_log_header(pool, following).base_id

# SPDX-License-Identifier: Apache-2.0
"""The engine: every verb there is, on the Fisks of one home directory.

Safe from several threads and several processes at once, without any daemon.  A verb is done, and durable,
when it returns; it raises only ``fisk_core.errors``.  Sizes and offsets are bytes; a ``ref`` is a name or
an id.  The verbs are described where they live, in the modules of this package and in
``fisk_core.services``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.engine import (
    building,
    cloning,
    deletion,
    lifecycle,
    lineage,
    opening,
    operating,
    pools,
    resizing,
    reverting,
    snapshots,
)
from fisk_core.engine.background import Background
from fisk_core.engine.context import Context
from fisk_core.locks import Lock
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Extent, Fisk, PoolInfo, Role, Route, TreeNode, Usage
from fisk_core.reports import CheckReport, CollectReport, RescanReport, ScrubReport
from fisk_core.services import events, settle

if TYPE_CHECKING:
    from fisk_core.services.readers import Reader

Fisks = list[Fisk]
Nodes = list[TreeNode]
PoolInfos = list[PoolInfo]
Uris = list[str]
Progress = Callable[[int, int | None], None]
"""Called with (done, in all or None), mostly bytes; raising from it cancels cleanly."""


class Engine(Context):
    """One open engine; a context manager.  ``close`` waits for work in the background."""

    def __init__(self, home: Path | None = None) -> None:
        super().__init__(home)
        self.settler = Background(self._settle)

    @classmethod
    def open(cls, home: Path | None = None) -> Self:
        """Open the engine of ``home``: default ``$FISK_HOME``, else the user's data directory."""
        return cls(home)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self) -> None:
        operating.finish_abandoned(self)
        settle.settle(self)
        events.trim(self)

    def finish(self, ref: str) -> None:
        with operating.operating(self, ref):
            pass

    def settle(self) -> None:
        """Do all background work now: write blobs of frozen maps, publish headers."""
        self.settler.notify()
        self.settler.wait()

    # Fisks

    def create(
        self,
        name: str,
        size: int,
        *,
        pool: str | None = None,
        role: str = Role.VOLUME,
        attributes: Mapping[str, str] | None = None,
        block_size: int = BLOCK_SIZE,
        page_size: int = PAGE_SIZE,
        id: str | None = None,
    ) -> Fisk:
        return lifecycle.create(
            self,
            name,
            size,
            pool=pool,
            role=role,
            attributes=attributes,
            block_size=block_size,
            page_size=page_size,
            id=id,
        )

    def get(self, ref: str) -> Fisk:
        return lifecycle.get(self, ref)

    def list(
        self,
        *,
        role: str | None = None,
        state: str | None = None,
        pool: str | None = None,
        attributes: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> Fisks:
        return lifecycle.select(self, role=role, state=state, pool=pool, attributes=attributes, name=name)

    def set(
        self,
        ref: str,
        *,
        name: str | None = None,
        role: str | None = None,
        attributes: Mapping[str, str | None] | None = None,
        frozen: bool | None = None,
    ) -> Fisk:
        return lifecycle.change(self, ref, name=name, role=role, attributes=attributes, frozen=frozen)

    def snapshot(
        self,
        ref: str,
        name: str,
        *,
        role: str = Role.SNAPSHOT,
        attributes: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Fisk:
        return snapshots.snapshot(self, ref, name, role=role, attributes=attributes, id=id)

    def group_snapshot(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        role: str = Role.SNAPSHOT,
        attributes: Sequence[Mapping[str, str] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Fisks:
        return snapshots.group_snapshot(self, pairs, role=role, attributes=attributes, ids=ids)

    def clone(
        self,
        ref: str,
        name: str,
        *,
        count: int = 1,
        role: str = Role.VOLUME,
        size: int | None = None,
        attributes: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Fisks:
        return cloning.clone(self, ref, name, count=count, role=role, size=size, attributes=attributes, id=id)

    def revert(self, ref: str, to: str) -> Fisk:
        return reverting.revert(self, ref, to)

    def resize(self, ref: str, size: int, *, shrink: bool = False) -> Fisk:
        return resizing.resize(self, ref, size, shrink=shrink)

    def delete(self, *refs: str, force: bool = False) -> None:
        deletion.delete(self, refs, force=force)

    # Looking

    def diff(self, a: str, b: str) -> Iterator[Extent]:
        return lineage.diff(self, a, b)

    def tree(self, ref: str | None = None) -> Nodes:
        return lineage.tree(self, ref)

    def route(self, ref: str, offset: int) -> Route:
        return lineage.route(self, ref, offset)

    def usage(self, ref: str) -> Usage:
        """Give the bytes a Fisk offers, names and alone names."""
        from fisk_core.services import usage

        return usage.usage(self, self.find(ref))

    def move(self, ref: str, pool: str, *, progress: Progress | None = None) -> Fisk:
        """Have a Fisk live in another pool, also while it is served; see ``fisk_core.engine.moving``."""
        from fisk_core.engine import moving

        return moving.move(self, ref, pool, progress=progress)

    # Using

    def acquire(self, ref: str, writable: bool) -> Lock:
        return opening.acquire(self, ref, writable=writable)

    def disk_spec(self, fisk: Fisk | str, read_only: bool) -> DiskSpec:
        return opening.disk_spec(self, fisk.id if isinstance(fisk, Fisk) else fisk, read_only=read_only)

    def open_disk(self, ref: str, *, writable: bool = False) -> Disk:
        return opening.open_disk(self, ref, writable=writable)

    # Moving bytes in and out

    def import_image(self, source: str | Path | IO[bytes], name: str, **options: Any) -> Fisk:
        """Make a Fisk from an image file or stream; see ``fisk_core.services.importer.import_image``."""
        from fisk_core.services import importer

        return importer.import_image(self, source, name, **options)

    def download(self, ref: str, target: str | Path | IO[bytes], **options: Any) -> None:
        """Write a Fisk to a file or stream; see ``fisk_core.services.exporter.download``."""
        from fisk_core.services import exporter

        exporter.download(self, self.get(ref), target, **options)

    def reading(self, fisk: Fisk) -> "AbstractContextManager[Reader]":
        """Open a Fisk to be read from start to end, also while a worker writes it; raises InUse."""
        from fisk_core.services import readers

        return readers.reading(self, fisk)

    def served(self, fisk: Fisk) -> AbstractContextManager[str]:
        """Give an NBD URI to read a Fisk from, good until the end of the block; raises InUse."""
        from fisk_core.services import readers

        return readers.serving(self, fisk)

    def served_at(self, fisk: Fisk) -> Uris:
        """Give the NBD URIs of the worker that serves a Fisk now; none where none does."""
        from fisk_core.services import readers

        return readers.uris_of(self, fisk)

    def begin_build(self, name: str, *, size: int, **options: Any) -> building.Building:
        return building.begin(self, name, size=size, **options)

    def finish_build(
        self,
        being_built: building.Building,
        *,
        size: int,
        frozen: bool,
        attributes: Mapping[str, str] | None = None,
    ) -> Fisk:
        return being_built.finish(size=size, frozen=frozen, attributes=attributes)

    def abort_build(self, being_built: building.Building) -> None:
        being_built.abort()

    def staging_file(self, pool: str | None = None) -> AbstractContextManager[Path]:
        """Give the path of a temporary file on the medium of a pool, gone at the end of the block."""
        return self.open_pool(pool).staging_file()

    # Keeping things in order

    def check(self, *, repair: bool = False, progress: Progress | None = None) -> CheckReport:
        from fisk_core.services import check

        return check.check(self, repair=repair, progress=progress)

    def scrub(self, *refs: str, progress: Progress | None = None) -> ScrubReport:
        from fisk_core.services import scrub

        return scrub.scrub(self, refs, progress=progress)

    def collect(self, *, dry_run: bool = False, progress: Progress | None = None) -> CollectReport:
        """Give back the space of blocks that no map points to."""
        from fisk_core.services import collector

        return collector.collect(self, dry_run=dry_run, progress=progress)

    # Pools

    def create_pool(
        self, name: str, driver: str = "file", options: Mapping[str, Any] | None = None
    ) -> PoolInfo:
        return pools.create(self, name, driver, options)

    def pools(self) -> PoolInfos:
        return pools.every(self)

    def pool(self, name: str) -> PoolInfo:
        return pools.info(self, name)

    def set_pool(self, name: str, options: Mapping[str, Any]) -> PoolInfo:
        return pools.change(self, name, options)

    def rescan(self, name: str, **options: Any) -> RescanReport:
        from fisk_core.services import rescan

        return rescan.rescan(self, name, **options)

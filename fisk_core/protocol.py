# SPDX-License-Identifier: Apache-2.0
"""The verbs, as a type: what an embedded engine and a daemon's client both are.

Code that is written against ``Verbs`` works with either.  What only makes sense in the process that uses a
Fisk itself (its lock, the description of its disk, the rows of the catalog) is the embedded engine's alone.
The verbs raise what ``fisk_core.engine`` says; through a daemon Unauthenticated, Forbidden, Overloaded and
Unavailable too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Extent, Fisk, PoolInfo, Role, Route, TreeNode, Usage
from fisk_core.reports import CheckReport, CollectReport, RescanReport, ScrubReport

if TYPE_CHECKING:
    from fisk_core.client.engine import RemoteEngine
    from fisk_core.engine import Engine
    from fisk_core.services.readers import Reader

Fisks = list[Fisk]
Nodes = list[TreeNode]
PoolInfos = list[PoolInfo]
Uris = list[str]
Progress = Callable[[int, int | None], None]
"""Called with (done, in all or None), mostly bytes; raising from it cancels cleanly."""


class BuildingDisk(Protocol):
    """What an import fills, in ascending order."""

    @property
    def block_size(self) -> int: ...
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...
    def flush(self) -> None: ...


class OpenDisk(Protocol):
    """A Fisk open for reading, and for writing if that was asked for; a context manager.

    Any offset and length within ``size``; what was flushed is durable.  Not for several threads at once.
    """

    @property
    def size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...
    def write_zeroes(self, offset: int, length: int) -> None: ...
    def trim(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Building(Protocol):
    """A hidden Fisk with an open ``disk``; as a context manager it is aborted unless finished."""

    @property
    def fisk_id(self) -> str: ...
    @property
    def disk(self) -> BuildingDisk: ...
    def finish(self, *, size: int, frozen: bool, attributes: Mapping[str, str] | None = None) -> Fisk: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Verbs(Protocol):
    """An engine, here or behind a daemon; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def close(self) -> None: ...

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
    ) -> Fisk: ...
    def get(self, ref: str) -> Fisk: ...
    def list(
        self,
        *,
        role: str | None = None,
        state: str | None = None,
        pool: str | None = None,
        attributes: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> Fisks: ...
    def set(
        self,
        ref: str,
        *,
        name: str | None = None,
        role: str | None = None,
        attributes: Mapping[str, str | None] | None = None,
        frozen: bool | None = None,
    ) -> Fisk: ...
    def snapshot(
        self,
        ref: str,
        name: str,
        *,
        role: str = Role.SNAPSHOT,
        attributes: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Fisk: ...
    def group_snapshot(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        role: str = Role.SNAPSHOT,
        attributes: Sequence[Mapping[str, str] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Fisks: ...
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
    ) -> Fisks: ...
    def revert(self, ref: str, to: str) -> Fisk: ...
    def resize(self, ref: str, size: int, *, shrink: bool = False) -> Fisk: ...
    def delete(self, *refs: str, force: bool = False) -> None: ...
    def move(self, ref: str, pool: str, *, progress: Progress | None = None) -> Fisk: ...

    # Looking

    def diff(self, a: str, b: str) -> Iterator[Extent]: ...
    def tree(self, ref: str | None = None) -> Nodes: ...
    def route(self, ref: str, offset: int) -> Route: ...
    def usage(self, ref: str) -> Usage: ...

    # Using

    def open_disk(self, ref: str, *, writable: bool = False) -> OpenDisk: ...
    def reading(self, fisk: Fisk) -> "AbstractContextManager[Reader]": ...
    def served(self, fisk: Fisk) -> AbstractContextManager[str]: ...
    def served_at(self, fisk: Fisk) -> Uris: ...

    # Moving bytes in and out

    def import_image(self, source: str | Path | IO[bytes], name: str, **options: Any) -> Fisk: ...
    def download(self, ref: str, target: str | Path | IO[bytes], **options: Any) -> None: ...
    def begin_build(
        self,
        name: str,
        *,
        size: int,
        pool: str | None = None,
        role: str = Role.IMAGE,
        attributes: Mapping[str, str] | None = None,
        block_size: int = BLOCK_SIZE,
        page_size: int = PAGE_SIZE,
        id: str | None = None,
    ) -> Building: ...
    def staging_file(self, pool: str | None = None) -> AbstractContextManager[Path]: ...

    # Keeping things in order

    def check(self, *, repair: bool = False, progress: Progress | None = None) -> CheckReport: ...
    def scrub(self, *refs: str, progress: Progress | None = None) -> ScrubReport: ...
    def collect(self, *, dry_run: bool = False, progress: Progress | None = None) -> CollectReport: ...

    # Pools

    def create_pool(
        self, name: str, driver: str = "file", options: Mapping[str, Any] | None = None
    ) -> PoolInfo: ...
    def pools(self) -> PoolInfos: ...
    def pool(self, name: str) -> PoolInfo: ...
    def set_pool(self, name: str, options: Mapping[str, Any]) -> PoolInfo: ...
    def rescan(self, name: str, **options: Any) -> RescanReport: ...


if TYPE_CHECKING:

    def both(embedded: Engine, remote: RemoteEngine) -> tuple[Verbs, Verbs]:
        """Have the type checker compare both with the protocol."""
        return embedded, remote

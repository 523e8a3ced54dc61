# SPDX-License-Identifier: Apache-2.0
"""Backups as Fisks of a pool.

In the pool of the volume a backup is a snapshot of it, and a restore reverts to it: nothing is copied.  In
another pool the first one is a snapshot that moves there; the next ones are clones of the one before, with
what has changed written to them, and then frozen.  Either way each is a Fisk that needs no other.
"""

from collections.abc import Iterator
from typing import Any

from fisk_core.client import RemoteEngine
from fisk_core.errors import NotFound
from fisk_core.model import Change, Fisk
from fisk_openstack.cinder.backup.source import FileSource, FiskSource, Source, pieces
from fisk_openstack.cinder.backup.target import Extents, Order, Own, Target, Watch
from fisk_openstack.cinder.backup.writer import write
from fisk_openstack.cinder.bases import Kept
from fisk_openstack.labels import Kind, find, fisk_id, fisk_name, search

ROLE = "backup"
METADATA = "openstack.metadata"
"""Attribute of a backup: what Cinder wants to know of the volume at a restore."""
_PIECE = 4 << 20
_PART = 64 << 10
"""Bytes that are compared, and copied, at once."""


class PoolTarget(Target):
    """One pool of the daemon."""

    def __init__(self, engine: RemoteEngine, pool: str) -> None:
        self.engine, self.pool = engine, engine.pool(pool).name

    def keep(self, order: Order, source: Fisk | Any) -> int:
        if not isinstance(source, Fisk):
            with FileSource(source) as file:
                return self._copy(order, file, file.extents(), self._parent(order), compare=True)
        if source.pool == self.pool:
            self._snapshot(order, source)
            return 0
        return self._elsewhere(order, source)

    def _snapshot(self, order: Order, source: Fisk) -> Fisk:
        return self.engine.snapshot(
            source.id,
            fisk_name(Kind.BACKUP, order.own.backup),
            role=ROLE,
            attributes=order.labels | {METADATA: order.metadata},
            id=fisk_id(Kind.BACKUP, order.own.backup),
        )

    def _elsewhere(self, order: Order, source: Fisk) -> int:
        """Copy a Fisk of another pool, or what of it differs from the backup before."""
        parent = self._parent(order)
        with Kept.taken(self.engine, order, source) as base:
            if parent is None:
                made = self._snapshot(order, base.fisk)
                self.engine.move(made.id, self.pool, progress=lambda done, total: order.watch())
                return self.engine.usage(made.id).referenced
            with FiskSource(self.engine, base.fisk) as now:
                changes = base.changes(order.parent_id)
                extents = now.extents() if changes is None else changes
                return self._copy(order, now, extents, parent, compare=changes is None)

    def _parent(self, order: Order) -> Fisk | None:
        found = search(self.engine, Kind.BACKUP, order.parent_id) if order.parent_id else None
        return found if found is not None and found.pool == self.pool else None

    def _copy(
        self, order: Order, source: Source, extents: Extents, parent: Fisk | None, *, compare: bool
    ) -> int:
        """Make the backup of what it began as and of what ``extents`` name; gives the bytes written."""
        made = self._begun(order, source, parent)
        done = 0
        with self.engine.open_disk(made.id, writable=True) as disk:
            for extent in pieces(extents, source.size, _PIECE):
                order.watch()
                if extent.change is Change.ZERO:
                    if parent is not None:
                        disk.write_zeroes(extent.offset, extent.length)
                    continue
                data = source.read(extent.offset, extent.length)
                known = disk.read(extent.offset, extent.length) if compare else None
                for start, part in _different(data, known):
                    disk.write(extent.offset + start, part)
                    done += len(part)
        self.engine.set(made.id, frozen=True)
        return done

    def _begun(self, order: Order, source: Source, parent: Fisk | None) -> Fisk:
        """Give a Fisk to write to; live, so that nobody takes it for a backup that is complete."""
        name, own = fisk_name(Kind.BACKUP, order.own.backup), fisk_id(Kind.BACKUP, order.own.backup)
        attributes = order.labels | {METADATA: order.metadata}
        if parent is None:
            return self.engine.create(
                name, source.size, pool=self.pool, role=ROLE, attributes=attributes, id=own
            )
        size = max(parent.size, source.size)
        (made,) = self.engine.clone(parent.id, name, role=ROLE, size=size, attributes=attributes, id=own)
        if source.size < size:
            made = self.engine.resize(made.id, source.size, shrink=True)
        return made

    def restore(self, own: Own, volume: Fisk | None, file: Any, *, clean: bool, watch: Watch) -> str:
        backup = self._complete(own.backup)
        if volume is not None and _same_place(backup, volume):
            self.engine.revert(volume.id, backup.id)
            self.engine.resize(volume.id, volume.size)
        else:
            with FiskSource(self.engine, backup) as source:
                write(source, source.extents(), file, clean=clean, watch=watch)
        return backup.attributes.get(METADATA, "")

    def delete(self, own: Own) -> None:
        found = search(self.engine, Kind.BACKUP, own.backup)
        if found is not None:
            # Only a service that died while it read or wrote the Fisk can have left it attached.
            self.engine.delete(found.id, force=True)

    def require(self, own: Own) -> None:
        self._complete(own.backup)

    def _complete(self, backup_id: str) -> Fisk:
        backup = find(self.engine, Kind.BACKUP, backup_id)
        if not backup.frozen or backup.pool != self.pool:
            raise NotFound(f"backup {backup_id} is not in pool '{self.pool}', or was never completed")
        return backup


def _different(data: bytes, known: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Give where ``data`` is other than ``known``, in parts; all of it if nothing is known."""
    if known is None:
        yield 0, data
        return
    for start in range(0, len(data), _PART):
        if data[start : start + _PART] != known[start : start + _PART]:
            yield start, data[start : start + _PART]


def _same_place(one: Fisk, other: Fisk) -> bool:
    """Say whether two Fisks can share layers."""
    return (one.pool, one.block_size, one.page_size) == (other.pool, other.block_size, other.page_size)

# SPDX-License-Identifier: Apache-2.0
"""Backups as files of a directory; the format is described in ``doc/source/admin/backup.rst``.

Each volume has a directory with its chunks, and a manifest for each backup.  A backup is there when its
manifest is; chunks no manifest names are removed when nobody works in the directory of the volume.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oslo_log import log

from fisk_core.client import RemoteEngine
from fisk_core.errors import Corrupt, InUse, NotFound, Unsupported
from fisk_core.model import Change, Extent, Fisk
from fisk_openstack.cinder.backup.chunks import SIZE, Chunks, named, sync
from fisk_openstack.cinder.backup.manifest import SUFFIX, Manifest, ManifestSource
from fisk_openstack.cinder.backup.source import FileSource, FiskSource, Source, pieces
from fisk_openstack.cinder.backup.target import Extents, Order, Own, Target, Watch
from fisk_openstack.cinder.backup.writer import write
from fisk_openstack.cinder.bases import Kept

LOG = log.getLogger(__name__)


class DirectoryTarget(Target):
    """One directory, on a local or shared file system with ``flock``."""

    def __init__(self, engine: RemoteEngine, root: Path) -> None:
        self.engine, self.root = engine, root
        if not root.is_dir():
            raise NotFound(f"{root} is not a directory")

    def keep(self, order: Order, source: Fisk | Any) -> int:
        if not isinstance(source, Fisk):
            with FileSource(source) as file:
                return self._write(order, file, None)
        with Kept.taken(self.engine, order, source) as base, FiskSource(self.engine, base.fisk) as now:
            return self._write(order, now, base.changes(order.parent_id))

    def _write(self, order: Order, source: Source, changes: Extents | None) -> int:
        """Make a backup, of its parent and of what has changed since then, if both are known."""
        volume = VolumeDirectory(self.root / order.own.volume)
        with volume.used():
            parent = volume.find(order.parent_id) if changes is not None else None
            names = list(parent.chunks) if parent is not None else []
            known = changes if parent is not None else None
            done = _fill(names, source, known, volume.chunks, order.watch)
            volume.chunks.flush()
            made = Manifest(
                order.own.backup, order.own.volume, source.size, names, order.metadata, order.labels
            )
            made.save(volume.manifest(order.own.backup))
        volume.sweep_if_due()
        return done

    def restore(self, own: Own, volume: Fisk | None, file: Any, *, clean: bool, watch: Watch) -> str:
        there = VolumeDirectory(self.root / own.volume)
        with there.used():
            manifest = Manifest.load(there.manifest(own.backup))
            source = ManifestSource(manifest, there.chunks)
            write(source, source.extents(), file, clean=clean, watch=watch)
        there.sweep_if_due()
        return manifest.metadata

    def delete(self, own: Own) -> None:
        VolumeDirectory(self.root / own.volume).forget(own.backup)

    def require(self, own: Own) -> None:
        there = VolumeDirectory(self.root / own.volume)
        there.chunks.require(Manifest.load(there.manifest(own.backup)).needed)


def _fill(
    names: list[str | None], source: Source, changes: Extents | None, chunks: Chunks, watch: Watch
) -> int:
    """Bring the chunks of a backup up to a source; gives the bytes written.

    ``changes`` is what may differ from what ``names`` are; None: nothing is known of it.
    """
    count = -(-source.size // SIZE)
    before = len(names)
    del names[count:]
    names += [None] * (count - before)
    done = 0
    for index in _touched(source.extents() if changes is None else changes, source.size, changes is None):
        watch()
        data = source.read(index * SIZE, min(SIZE, source.size - index * SIZE))
        names[index], written = chunks.put(data) if any_data(data) else (None, 0)
        done += written
    return done


def _touched(extents: Iterator[Extent], size: int, whole: bool) -> Iterator[int]:
    """Give the chunks to look at, each once; of a whole disk those of zeros need no look."""
    last = -1
    for extent in pieces(extents, size, SIZE):
        index = extent.offset // SIZE
        if index != last and not (whole and extent.change is Change.ZERO):
            last = index
            yield index


def any_data(data: bytes) -> bool:
    """Say whether there is anything but zeros."""
    return data.count(0) != len(data)


class VolumeDirectory:
    """The directory of a volume: ``lock``, ``chunks``, manifests, and ``sweep`` while chunks may be left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks = Chunks(path / "chunks")

    def manifest(self, backup_id: str) -> Path:
        """Give where the manifest of a backup is."""
        return self.path / f"{backup_id}{SUFFIX}"

    def find(self, backup_id: str | None) -> Manifest | None:
        """Give a manifest, None if it is not there."""
        if backup_id is None:
            return None
        try:
            return Manifest.load(self.manifest(backup_id))
        except NotFound:
            return None

    @contextmanager
    def used(self) -> Iterator[None]:
        """See to it that chunks stay while they are written and read."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the lock of the directory; raises InUse at once when that is not possible."""
        with named("make", self.path):
            self.chunks.directory.mkdir(parents=True, exist_ok=True)
        sync(self.path.parent)
        path = self.path / "lock"
        with named("lock", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            if not path.exists() or os.fstat(fd).st_ino != path.stat().st_ino:
                raise InUse(f"{self.path} was removed just now")
            yield
        except BlockingIOError:
            raise InUse(f"{self.path} is being tidied; try again") from None
        finally:
            os.close(fd)

    def forget(self, backup_id: str) -> None:
        """Remove a backup, and its chunks as soon as nobody works here; raises ReadOnly, PoolError."""
        if not self.path.exists():
            return
        with named("write in", self.path):
            (self.path / "sweep").touch()
            self.manifest(backup_id).unlink(missing_ok=True)
        sync(self.path)
        self.sweep_if_due()

    def sweep_if_due(self) -> None:
        """Remove chunks that nobody needs, if there may be any; whoever works here does it otherwise."""
        if not (self.path / "sweep").exists():
            return
        with suppress(InUse), self._locked(fcntl.LOCK_EX):
            with named("list", self.path):
                # Before the look: whoever deletes a backup after it leaves this again.
                (self.path / "sweep").unlink(missing_ok=True)
                manifests = list(self.path.glob(f"*{SUFFIX}"))
            try:
                kept = [Manifest.load(each).needed for each in manifests]
            except (Corrupt, Unsupported) as problem:
                LOG.error("Chunks that nobody needs stay in %s: %s", self.path, problem)
                return
            self.chunks.sweep(frozenset().union(*kept))
            if not kept:
                self._vanish()

    def _vanish(self) -> None:
        """Remove the directory, which holds no backup."""
        with named("remove", self.path):
            for each in self.chunks.directory.iterdir():
                each.rmdir()
            self.chunks.directory.rmdir()
            for left in self.path.iterdir():
                left.unlink()
            self.path.rmdir()

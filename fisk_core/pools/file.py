# SPDX-License-Identifier: Apache-2.0
"""The file pool: a directory on any local file system (or one shared by an attentive NFS server).

::

    pool.json                       the header
    layers/<2 hex>/<uuid>           sparse data files
    logs/<2 hex>/<uuid>             map logs
    sums/<2 hex>/<uuid>             checksums of the blocks of layers
    blobs/<family>/<uuid>           frozen maps, Fisk headers
    staging/                        temporary files

The two digits spread the files over directories.  Directories of digits and families are made when first
needed; the ones above them only with the pool, so that a pool whose file system is not mounted is missed
and not silently begun anew below the mount point.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fisk_core import files
from fisk_core.pools import _files, _filesystem
from fisk_core.pools._header import Header, create_header, read_header, record_options
from fisk_core.pools._options import FileOptions
from fisk_core.pools.base import (
    Capabilities,
    Device,
    Kind,
    Pool,
    Space,
    check_blob_name,
    check_blob_prefix,
    check_id,
    check_range,
    is_id,
)
from fisk_core.pools.file_device import FileBlob, FileDevice
from fisk_core.units import MAX_SIZE

if TYPE_CHECKING:
    from pathlib import Path

_FOLDERS = {Kind.LAYER: "layers", Kind.LOG: "logs", Kind.SUMS: "sums"}
_BLOBS, _STAGING = "blobs", "staging"
_FILES_AT_ONCE = 200  # temporary files open together


class FilePool(Pool):
    """Options: ``path`` (the directory), ``checksum`` (none, crc32), ``prealloc`` (true: where it pays),
    ``classes`` (of Fisks that go here unless another pool is named, like ``scratch,background``).
    """

    driver: ClassVar[str] = "file"

    def __init__(self, name: str, header: Header, options: FileOptions) -> None:
        """Use ``open`` or ``create``."""
        self.name = name
        self.id = header.id
        self.options = options._asdict()
        self._root = options.path
        self._file_system = _filesystem.FileSystem(options.path, options.prealloc)
        self._directories: set[str] = set()
        self._unsynced: set[str] = set()
        self._sync_lock = Lock()

    @classmethod
    def create(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Make ``path`` (and what is missing above it) a pool; it must be empty or not exist."""
        parsed = FileOptions.parse(options)
        with _files.named("create the pool", parsed.path):
            _files.make_root(parsed.path)
            create_header(parsed.path, name, parsed.recorded())
        return cls.open(name, options)

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Open the pool at ``path``; other options default to what the header records."""
        root = FileOptions.parse(options).path
        with _files.named("open the pool", root):
            header = read_header(root)
            recorded = {key: value for key, value in header.options.items() if key in FileOptions._fields}
            kept = {"checksum": recorded["checksum"]} if "checksum" in recorded else {}
            # Whether data is compared is the pool's own word: layers have checksums, or have none.
            pool = cls(name, header, FileOptions.parse({**recorded, **options, **kept}))
            _make_folders(root)
        return pool

    def set_options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        changed = FileOptions.parse(self.options).changed(changes)
        with _files.named("change the pool", self._root):
            record_options(self._root, changed.recorded())
        self.options = changed._asdict()  # for those we tell of the pool; our own devices stay as they are
        return dict(self.options)

    @cached_property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            random_write=True,
            reflink=self._can_reflink(),
            shared=False,
            preallocate=self._file_system.preallocates,
        )

    @cached_property
    def largest_device(self) -> int:
        """Found by trying: a file of ext4 ends at 16 TiB."""
        with self.staging_file() as path, _files.named("try the largest file in", self._root):
            return _files.largest(str(path), MAX_SIZE)

    # Devices

    def create_device(self, kind: Kind, device_id: str, size: int = 0) -> Device:
        check_range(0, size)
        path = self._device_path(kind, device_id)
        with _files.named("create", path):
            self._make_directory(os.path.dirname(path))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.ftruncate(fd, size)
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
        self._changed(path)
        return FileDevice(fd, path, True, self._file_system)

    def open_device(self, kind: Kind, device_id: str, writable: bool) -> Device:
        path = self._device_path(kind, device_id)
        with _files.named("open", path):
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
        return FileDevice(fd, path, writable, self._file_system)

    def delete_device(self, kind: Kind, device_id: str) -> None:
        self._unlink(self._device_path(kind, device_id))

    def list_devices(self, kind: Kind) -> Iterator[str]:
        folder = os.path.join(self._root, _FOLDERS[kind])
        with _files.named("list", folder):
            for directory in _files.directories(folder):
                digits = os.path.basename(directory)
                yield from (name for name in os.listdir(directory) if is_id(name) and name[:2] == digits)

    def exists(self, kind: Kind, device_id: str) -> bool:
        return _files.is_there(self._device_path(kind, device_id))

    def usage(self, kind: Kind, device_id: str) -> int:
        path = self._device_path(kind, device_id)
        with _files.named("stat", path):
            return os.lstat(path).st_blocks * 512

    def sync_device_name(self, kind: Kind, device_id: str) -> None:
        # The file first: once its name survives a power loss, its size and content do too.  The name of the
        # directory itself survives since _make_directory.
        path = self._device_path(kind, device_id)
        with _files.named("sync", path):
            _files.sync_file(path)
            _files.sync_directory(os.path.dirname(path))

    def sync_names(self) -> None:
        # The lock is held to the end: who finds nothing left to sync may rely on it being done.
        with self._sync_lock, _files.named("sync the names in", self._root):
            for directory in self._unsynced:
                _files.sync_directory(directory)
            self._unsynced.clear()

    def replace_log(self, device_id: str, chunks: Iterable[bytes]) -> None:
        self._replace(self._device_path(Kind.LOG, device_id), chunks, durable=True)

    def locate(self, kind: Kind, device_id: str) -> "Path | None":
        from pathlib import Path

        return Path(self._device_path(kind, device_id))

    def clone_range(
        self, source_fd: int, device: Device, source_offset: int, offset: int, length: int
    ) -> bool:
        check_range(source_offset, length)
        check_range(offset, length)
        [(fd, offset, _)] = device.route(offset, length)
        with _files.named("share extents with", repr(device)):
            return _filesystem.share(source_fd, source_offset, length, fd, offset)

    # Blobs

    def put_blob(self, name: str, chunks: Iterable[bytes], durable: bool = True) -> None:
        self._replace(self._blob_path(name), chunks, durable)

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        contents = [(self._blob_path(name), data) for name, data in blobs.items()]
        for start in range(0, len(contents), _FILES_AT_ONCE):
            some = contents[start : start + _FILES_AT_ONCE]
            with _files.named("write blobs in", self._root):
                for directory in {os.path.dirname(path) for path, _ in some}:
                    self._make_directory(directory)
                _files.replace_many(some)

    def open_blob(self, name: str) -> FileBlob:
        path = self._blob_path(name)
        with _files.named("open", path):
            return FileBlob(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), path)

    def delete_blob(self, name: str) -> None:
        self._unlink(self._blob_path(name))

    def list_blobs(self, prefix: str = "") -> Iterator[str]:
        wanted = check_blob_prefix(prefix)
        folder = os.path.join(self._root, _BLOBS)
        with _files.named("list", folder):
            for directory in _files.directories(folder):
                family = os.path.basename(directory)
                if wanted in ("", family):
                    yield from (f"{family}/{name}" for name in os.listdir(directory) if is_id(name))

    def has_blob(self, name: str) -> bool:
        return _files.is_there(self._blob_path(name))

    # The pool as a whole

    def space(self) -> Space:
        with _files.named("stat", self._root):
            return Space(*files.free_bytes(self._root))

    @contextmanager
    def staging_file(self) -> "Iterator[Path]":
        from pathlib import Path

        folder = os.path.join(self._root, _STAGING)
        with ExitStack() as stack:
            with _files.named("make a temporary file in", folder):
                _, path = stack.enter_context(_files.temporary(folder))
            yield Path(path)

    def sweep_staging(self) -> int:
        with _files.named("sweep", self._root):
            return sum(_files.sweep(directory) for directory in self._temporary_directories())

    def _temporary_directories(self) -> Iterator[str]:
        """Give every directory where ``_files.temporary`` may have been at work."""
        yield self._root
        yield os.path.join(self._root, _STAGING)
        for folder in (_FOLDERS[Kind.LOG], _BLOBS):
            yield from _files.directories(os.path.join(self._root, folder))

    def _device_path(self, kind: Kind, device_id: str) -> str:
        check_id(device_id)
        return os.path.join(self._root, _FOLDERS[kind], device_id[:2], device_id)

    def _blob_path(self, name: str) -> str:
        return os.path.join(self._root, _BLOBS, check_blob_name(name))

    def _make_directory(self, path: str) -> None:
        """Make a directory of digits or of a family, durably, unless this object already saw it done.

        It is synced also if it was there: its maker may not have come so far yet.
        """
        if path not in self._directories:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            _files.sync_directory(os.path.dirname(path))
            self._directories.add(path)

    def _replace(self, path: str, chunks: Iterable[bytes], durable: bool) -> None:
        with _files.named("write", path):
            self._make_directory(os.path.dirname(path))
            _files.replace(path, chunks, durable)
        if not durable:
            self._changed(path)

    def _unlink(self, path: str) -> None:
        with _files.named("delete", path), suppress(FileNotFoundError):
            os.unlink(path)
            self._changed(path)

    def _changed(self, path: str) -> None:
        """Remember that a name came or went, for ``sync_names``."""
        with self._sync_lock:
            self._unsynced.add(os.path.dirname(path))

    def _can_reflink(self) -> bool:
        folder = os.path.join(self._root, _STAGING)
        try:
            with _files.temporary(folder) as (first, _), _files.temporary(folder) as (second, _):
                return _filesystem.clones(first, second)
        except OSError:  # a read-only medium: nothing will be cloned on it
            return False


def _make_folders(root: str) -> None:
    """Make the folders that are missing, durably: what is synced inside would be lost with its folder.

    Usually that is at the creation; a crash may have ended it between header and folders.
    """
    made = False
    for folder in (*_FOLDERS.values(), _BLOBS, _STAGING):
        with suppress(FileExistsError):
            os.mkdir(os.path.join(root, folder), 0o700)
            made = True
    if made:
        _files.sync_directory(root)

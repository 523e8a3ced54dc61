# SPDX-License-Identifier: Apache-2.0
"""What every pool offers: devices (layers and logs), blobs, and answers to capability questions.

Guarantees a driver gives, checked by ``fisk_core.testing.pool_conformance``:

* ids and blob names are validated here, once, so no driver ever sees a name that leaves its pool;
* every failure is a ``fisk_core.errors`` class whose message names the object;
* a blob and a log are replaced as a whole or not at all, also across a crash;
* a device keeps what was flushed; its *name* is durable after ``sync_device_name``.

Only light modules are imported: each worker process loads this one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from fisk_core.errors import InvalidValue, Unsupported
from fisk_core.units import MAX_SIZE

if TYPE_CHECKING:
    from pathlib import Path

Buffers = Sequence[bytes | bytearray | memoryview]
WritableBuffers = Sequence[bytearray | memoryview]

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(_UUID)
_BLOB_NAME = re.compile(rf"[a-z]+/{_UUID}")
_BLOB_PREFIX = re.compile(r"([a-z]+/?)?")


def check_id(device_id: str) -> str:
    """Give ``device_id`` back if it is a lower-case UUID; raises InvalidValue."""
    if not _ID.fullmatch(device_id):
        raise InvalidValue(f"{device_id!r} is not an id (a lower-case UUID)")
    return device_id


def is_id(text: str) -> bool:
    """Say whether ``text`` has the shape of an id: what a listing may report."""
    return _ID.fullmatch(text) is not None


def check_blob_name(name: str) -> str:
    """Give ``name`` back if it is ``family/uuid``, e.g. ``maps/5f0c…``; raises InvalidValue."""
    if not _BLOB_NAME.fullmatch(name):
        raise InvalidValue(f"{name!r} is not the name of a blob (family/uuid)")
    return name


def check_blob_prefix(prefix: str) -> str:
    """Give the family that ``prefix`` (``"maps"`` or ``"maps/"``) means, "" for all; raises InvalidValue."""
    if not _BLOB_PREFIX.fullmatch(prefix):
        raise InvalidValue(f"{prefix!r} is not the prefix of blob names (a family, or nothing)")
    return prefix.rstrip("/")


def check_range(offset: int, length: int) -> None:
    """Raise InvalidValue if either is negative: an alignment gone wrong must never reach a medium."""
    if offset < 0 or length < 0:
        raise InvalidValue(f"a range of {length} bytes at {offset} makes no sense")


class Kind(StrEnum):
    """The kinds of device: sparse data of one period, the log of its map, and checksums of its data."""

    LAYER = "layer"
    LOG = "log"
    SUMS = "layersums"


class Capabilities(NamedTuple):
    """What a pool can do beyond the least; the answers never change while it is open."""

    random_write: bool
    """Devices can be written in place; without it a pool holds frozen layers only."""
    reflink: bool
    """``clone_range`` shares extents instead of copying bytes."""
    shared: bool
    """Several hosts see the same pool."""
    preallocate: bool
    """``preallocate`` reserves space, and it pays."""


class Space(NamedTuple):
    """Bytes of the medium; ``free`` is what an unprivileged writer can still use."""

    total: int
    free: int


class Device(ABC):
    """An open layer or log.  Offsets and lengths are bytes, of any alignment.

    Reads and writes may come from several threads at once.  A write through a device that was opened
    read-only raises ReadOnly.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Current size in bytes; reads end there, writes extend it."""

    @abstractmethod
    def preadv(self, buffers: WritableBuffers, offset: int) -> int:
        """Fill ``buffers`` from ``offset``; gives the bytes read, fewer only at the end."""

    @abstractmethod
    def pwritev(self, buffers: Buffers, offset: int) -> int:
        """Write all of ``buffers`` at ``offset`` and give their length; raises NoSpace, PoolError."""

    @abstractmethod
    def discard(self, offset: int, length: int) -> None:
        """Make the range read as zeros, giving space back where possible; the size does not change."""

    @abstractmethod
    def write_zeroes(self, offset: int, length: int) -> None:
        """Write zeros that keep (or get) their space; extends the device as a write does."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written before is on stable storage."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Set the size; what is beyond is gone, what is added reads as zeros."""

    @abstractmethod
    def preallocate(self, offset: int, length: int) -> bool:
        """Reserve space without changing content or size; False where that is impossible or no gain."""

    @abstractmethod
    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Give (offset, length) of the parts that may hold data, ascending; all else reads as zeros."""

    @abstractmethod
    def allocated(self) -> int:
        """Bytes of space the device takes on its medium."""

    def route(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Give (file descriptor, offset, length) where the range lives, in order.

        The descriptors stay valid until ``close``.  Raises Unsupported for devices that transform bytes.
        """
        raise Unsupported(f"{self!r} has no route to a file: it transforms what passes")

    def control(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer a message sent down the graph; raises Unsupported for one it does not know."""
        raise Unsupported(f"{self!r} does not understand {message.get('op')!r}")

    @abstractmethod
    def close(self) -> None:
        """Release the device; it does not flush.  A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlobReader(ABC):
    """An open blob: one version of it, readable also after it is replaced or deleted."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Size in bytes."""

    @abstractmethod
    def pread(self, length: int, offset: int) -> bytes:
        """Give ``length`` bytes from ``offset``, fewer only at the end."""

    @abstractmethod
    def close(self) -> None:
        """Release the blob.  A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pool(ABC):
    """Where devices and blobs persist.  May be used by several threads and processes at once.

    Attributes: ``name`` as the catalog has it, ``id`` (the pool itself carries it), ``options`` in effect.
    """

    driver: ClassVar[str]
    """The driver's name among the entry points ``fisk.pools``."""

    name: str
    id: str
    options: Mapping[str, Any]

    @classmethod
    @abstractmethod
    def create(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Make a new pool and open it; raises AlreadyExists, InvalidValue for options that make no sense."""

    @classmethod
    @abstractmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Open a pool; raises NotFound, Corrupt (its header), Unsupported (made by a newer Fisk)."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this pool can do; asked of the medium once."""

    # Devices

    @abstractmethod
    def create_device(self, kind: Kind, device_id: str, size: int = 0) -> Device:
        """Make a device of ``size`` zero bytes, open for writing; raises AlreadyExists.

        Its name is not durable before ``sync_device_name``.
        """

    @abstractmethod
    def open_device(self, kind: Kind, device_id: str, writable: bool) -> Device:
        """Open a device; raises NotFound."""

    @abstractmethod
    def delete_device(self, kind: Kind, device_id: str) -> None:
        """Remove a device; one that is not there is no error."""

    @abstractmethod
    def list_devices(self, kind: Kind) -> Iterator[str]:
        """Give the ids of all devices of ``kind``, in any order."""

    @abstractmethod
    def exists(self, kind: Kind, device_id: str) -> bool:
        """Say whether there is such a device."""

    @abstractmethod
    def usage(self, kind: Kind, device_id: str) -> int:
        """Bytes of space a device takes; raises NotFound."""

    @abstractmethod
    def sync_device_name(self, kind: Kind, device_id: str) -> None:
        """Make a device and its name durable; raises NotFound."""

    @abstractmethod
    def sync_names(self) -> None:
        """Make every name this pool object created or removed so far durable."""

    @abstractmethod
    def replace_log(self, device_id: str, chunks: Iterable[bytes]) -> None:
        """Give a log new content, durably and as a whole; devices open on it keep the old one."""

    def locate(self, kind: Kind, device_id: str) -> "Path | None":
        """Give the path of a device for people, None where it is not a file of this host."""
        return None

    def clone_range(
        self, source_fd: int, device: Device, source_offset: int, offset: int, length: int
    ) -> bool:
        """Share ``length`` bytes of an open file with ``device``; False when that cannot be done."""
        return False

    # Blobs

    @abstractmethod
    def put_blob(self, name: str, chunks: Iterable[bytes], durable: bool = True) -> None:
        """Create or replace a blob as a whole; ``durable``: it is on stable storage on return."""

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Put many small blobs durably, each as ``put_blob`` does; a driver may do better than one by one."""
        for name, data in blobs.items():
            self.put_blob(name, [data])

    @abstractmethod
    def open_blob(self, name: str) -> BlobReader:
        """Open a blob; raises NotFound."""

    def get_blob(self, name: str) -> bytes:
        """Give all of a blob; raises NotFound."""
        with self.open_blob(name) as blob:
            return blob.pread(blob.size, 0)

    @abstractmethod
    def delete_blob(self, name: str) -> None:
        """Remove a blob; one that is not there is no error."""

    @abstractmethod
    def list_blobs(self, prefix: str = "") -> Iterator[str]:
        """Give the names of all blobs of a family (``"maps/"``), or of all families."""

    @abstractmethod
    def has_blob(self, name: str) -> bool:
        """Say whether there is such a blob."""

    # The pool as a whole

    @property
    def largest_device(self) -> int:
        """Bytes a device can have, as far as the medium limits that."""
        return MAX_SIZE

    @abstractmethod
    def space(self) -> Space:
        """Size of the medium and what is free of it."""

    @abstractmethod
    def staging_file(self) -> "AbstractContextManager[Path]":
        """Give the path of an empty temporary file on the pool's medium, gone at the end.

        Its content may be changed by other programs, but it must not be replaced by another file: what
        protects it from ``sweep_staging`` is a lock on this one.
        """

    @abstractmethod
    def sweep_staging(self) -> int:
        """Remove temporary files whose makers died; gives their number."""

    def set_options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Have these options in force for whoever opens the pool from now on; gives all of them.

        Durable on return, as a whole.  Raises InvalidValue for an option that was decided when the pool was
        made, or that makes no sense; nothing is changed then.  This answer is that of a driver that can
        change none.
        """
        raise InvalidValue(f"pool '{self.name}' has no option that can be changed")

    def spec(self) -> dict[str, Any]:
        """Give what ``open_pool`` needs to reopen this pool in another process, as JSON types."""
        cls = type(self)
        return {
            "driver": self.driver,
            "class": f"{cls.__module__}:{cls.__qualname__}",
            "name": self.name,
            "options": dict(self.options),
        }

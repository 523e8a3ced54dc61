# SPDX-License-Identifier: Apache-2.0
"""The nouns, as plain immutable values that cross module and process boundaries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from fisk_core.units import MAX_SIZE as MAX_SIZE

BLOCK_SIZE = 4096
PAGE_SIZE = 4 << 20


class State(StrEnum):
    """``live`` is writable, ``frozen`` immutable for ever; ``building`` is an import under way, hidden."""

    LIVE = "live"
    FROZEN = "frozen"
    BUILDING = "building"


class Role(StrEnum):
    """Labels the command line offers; any other label of the same shape is accepted too."""

    IMAGE = "image"
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    DISK = "disk"
    ORIGINAL = "original"


class Class(StrEnum):
    """What a Fisk is for: the attribute ``class`` of it, which workers and the choice of a pool act on."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    BACKGROUND = "background"
    SCRATCH = "scratch"


class Change(StrEnum):
    """What a diff says of an extent: it holds other data, or it reads as zeros now."""

    DATA = "data"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Fisk:
    """A linearly addressable set of blocks; sizes in bytes, ids are lower-case UUIDs."""

    id: str
    name: str
    size: int
    state: State
    role: str
    pool: str
    map_id: str
    created_at: datetime
    parent_id: str | None = None
    block_size: int = BLOCK_SIZE
    page_size: int = PAGE_SIZE
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        return self.state is State.FROZEN


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes from ``offset`` that differ between two Fisks."""

    offset: int
    length: int
    change: Change


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes: what the Fisk offers, what its map names, and what only this Fisk's map names."""

    provisioned: int
    referenced: int
    exclusive: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where one byte of a Fisk lives; ``layer_id`` is None for a hole."""

    offset: int
    layer_id: str | None
    pool: str | None
    path: str | None
    file_offset: int | None


@dataclass(slots=True)
class TreeNode:
    """A Fisk and what was made from it, oldest first."""

    fisk: Fisk
    children: list["TreeNode"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool; ``total`` and ``free`` are bytes of its medium."""

    name: str
    id: str
    driver: str
    options: Mapping[str, Any]
    total: int
    free: int


class Access(StrEnum):
    """How a host reaches an attached Fisk; others are found by entry point ``fisk.access``."""

    NBD = "nbd"
    DIRECT = "direct"
    FILE = "file"
    BLOCK = "block"
    ISCSI = "iscsi"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One consumer's use of a Fisk on one host.

    ``epoch`` is that of the writer lease it shares, 0 for readers.  ``uris`` are NBD URIs, the unix socket
    first; ``path`` is the file or device of the access paths that have one; ``consumer`` is the caller's
    own label, e.g. the id of a server.  ``incoming``: another host writes the Fisk still, and this one
    waits for its turn.
    """

    id: str
    fisk_id: str
    host: str
    access: str
    read_only: bool
    epoch: int
    created_at: datetime
    consumer: str = ""
    uris: tuple[str, ...] = ()
    path: str | None = None
    incoming: bool = False


class JobState(StrEnum):
    """``queued`` and ``running`` jobs go on after a restart; the others are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """Long work: how much is ``done`` of ``total`` (None while unknown), its arguments, and what came of it.

    Both are bytes; ``check`` and ``rescan`` count what they looked at.  ``error`` is a problem document
    (RFC 9457) of a failed job.
    """

    id: str
    kind: str
    state: JobState
    arguments: Mapping[str, Any]
    done: int
    total: int | None
    created_at: datetime
    updated_at: datetime
    host: str
    result: Any = None
    error: Mapping[str, Any] | None = None

    @property
    def over(self) -> bool:
        return self.state not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; ``num`` only ever rises."""

    num: int
    kind: str
    at: datetime
    fisk_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RangeLock:
    """``length`` bytes from ``offset`` locked by ``owner`` until ``expires``; renew it before."""

    id: str
    fisk_id: str
    offset: int
    length: int
    shared: bool
    owner: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Retention:
    """Which snapshots of a schedule stay: the newest ones, and the newest of so many hours, days, weeks."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A snapshot of one Fisk every ``interval`` seconds; ``expire`` seconds after it is taken it goes too."""

    id: str
    fisk_id: str
    interval: int
    retention: Retention
    next_run: datetime
    created_at: datetime
    prefix: str = "auto"
    expire: int | None = None
    expendable: bool = False
    """its snapshots may be removed when the pool passes its high-water mark"""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as it is remembered: never the secret itself."""

    id: str
    name: str
    role: str
    created_at: datetime
    expires: datetime | None = None

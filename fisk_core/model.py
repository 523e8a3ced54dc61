# SPDX-License-Identifier: Apache-2.0
"""The nouns, as plain immutable values that cross module and process boundaries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

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

# SPDX-License-Identifier: Apache-2.0
"""What a data path needs to know of one Fisk; made by the engine, read by a worker in another process."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One Fisk to be read or written; ``pool`` is what ``Pool.spec()`` gave.

    A writable spec names an open period (its log and layer exist); the writer holds the Fisk's lock.
    ``opened`` is False for a live Fisk never written to since its period began: its map is that of
    ``base_id`` (or empty), of which ``base_size`` bytes are seen.  ``journal``: where map changes are kept
    until they are flushed, for whoever writes next should this writer be killed, with its ``epoch``.
    """

    fisk_id: str
    name: str
    size: int
    block_size: int
    page_size: int
    map_id: str
    read_only: bool
    pool: dict[str, Any]
    opened: bool = True
    base_id: str | None = None
    base_size: int = 0
    attributes: dict[str, str] = field(default_factory=dict)
    journal: str | None = None
    epoch: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DiskSpec":
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class FenceOptions:
    """Who may write: when the file at ``path`` holds more than ``epoch``, this worker may not any more."""

    path: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """A worker that waits for its turn: what the writer publishes at ``path`` for the token ``id``."""

    path: str
    id: str


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What the server proves itself with.

    A directory with ``ca-cert.pem``, ``server-cert.pem`` and ``server-key.pem``, or a file of
    ``identity:hex-key`` lines.  ``verify`` also asks clients for certificates.
    """

    directory: str | None = None
    psk_file: str | None = None
    verify: bool = False

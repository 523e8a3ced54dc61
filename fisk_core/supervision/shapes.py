# SPDX-License-Identifier: Apache-2.0
"""What callers of the supervisor get to see."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.model import Attachment


@dataclass(frozen=True, slots=True)
class Build:
    """A hidden Fisk, and where it is written: ``uri`` on this host, ``uris`` every NBD URI there is."""

    fisk_id: str
    uri: str
    uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker of this host; what it tells itself is None where it does not answer.

    ``started`` is unix time, ``restarts`` how often this supervisor started one in its place.  ``failed``
    says why it cannot write any more.  ``metrics`` is what the control operation of that name gives.
    """

    fisk_id: str
    pid: int
    read_only: bool
    epoch: int
    attachments: int
    restarts: int
    lingering: bool
    uri: str | None = None
    size: int | None = None
    map_id: str | None = None
    connections: int | None = None
    version: str | None = None
    started: float | None = None
    fenced: bool = False
    failed: str | None = None
    metrics: Mapping[str, Any] | None = None


def attachment(row: AttachmentRow) -> Attachment:
    return Attachment(
        id=row.id,
        fisk_id=row.fisk_id,
        host=row.host,
        access=row.access,
        read_only=row.read_only,
        epoch=row.epoch,
        created_at=row.created_at.replace(tzinfo=UTC),
        consumer=row.consumer,
        uris=tuple(row.details.get("uris", ())),
        path=row.details.get("path"),
        incoming=bool(row.details.get("incoming")),
    )

# SPDX-License-Identifier: Apache-2.0
"""What the verbs of the supervisor share."""

import logging
import resource
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fisk_core import locks
from fisk_core.access import AccessPath, access_path
from fisk_core.catalog import attachments
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.config import Settings
from fisk_core.engine import Engine
from fisk_core.engine.operating import OPERATION_SECONDS
from fisk_core.errors import NotFound
from fisk_core.supervision.exports import Exports
from fisk_core.supervision.network import Network
from fisk_core.supervision.notes import Notes
from fisk_core.supervision.watch import Watch
from fisk_core.supervision.workers import Ended, Workers

LOG = logging.getLogger(__name__)

BUILD = "build"
"""``access`` of the row that stands for a build under way"""


class Core:
    """One supervisor's parts; may be used by several threads."""

    def __init__(self, engine: Engine, settings: Settings, ended: Ended) -> None:
        self.engine, self.settings, self.host = engine, settings, settings.host
        self.home = engine.home
        self.draining = False
        """no worker is started again by itself any more"""
        _raise_limit()
        self.watch = Watch()
        try:
            self.exports = Exports(self.home)
            self.notes = Notes(self.home)
            self.network = Network(self.home, settings.nbd, self.watch)
            self.workers = Workers(engine, self.watch, ended, settings.workers.drain_seconds)
        except BaseException:
            self.watch.close()
            raise
        self._drivers: dict[str, AccessPath] = {}
        self._lock = threading.Lock()

    def driver(self, name: str) -> AccessPath:
        """Give an access path; raises InvalidValue when there is none of that name."""
        with self._lock:
            if name not in self._drivers:
                self._drivers[name] = access_path(name, self.engine)
            return self._drivers[name]

    def needs_worker(self, row: AttachmentRow) -> bool:
        return row.access == BUILD or self.driver(row.access).needs_worker

    def rows(self, fisk_id: str | None = None, *, everywhere: bool = False) -> list[AttachmentRow]:
        """Give the attachments of a Fisk, or all: on this host, or everywhere."""
        with self.engine.catalog.read() as conn:
            return attachments.every(conn, fisk_id=fisk_id, host=None if everywhere else self.host)

    def row(self, attachment_id: str) -> AttachmentRow | None:
        with self.engine.catalog.read() as conn:
            return attachments.try_find(conn, attachment_id)

    @contextmanager
    def operation(self, fisk_id: str) -> Iterator[None]:
        """Hold a Fisk's operation lock, without looking at what was interrupted; raises InUse."""
        with locks.acquire(self.home.operation(fisk_id), timeout=OPERATION_SECONDS):
            yield

    def close(self) -> None:
        self.watch.close()
        self.workers.close()
        self.network.close()


def _raise_limit() -> None:
    """Allow as many descriptors as we may have: each worker takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def required(row: AttachmentRow | None, attachment_id: str) -> AttachmentRow:
    if row is None or row.access == BUILD:
        raise NotFound(f"there is no attachment '{attachment_id}'")
    return row


def is_pending(row: AttachmentRow) -> bool:
    """Whether the attach that wrote the row has not answered yet, or never did."""
    return bool(row.details.get("pending"))


def is_waiting(row: AttachmentRow) -> bool:
    """Whether another host writes the Fisk still, and this attachment waits for its turn."""
    return bool(row.details.get("incoming"))


def export_of(rows: Iterable[AttachmentRow], otherwise: str) -> str:
    """Give the export name clients were told first; it outlives a change of the Fisk's name."""
    return next((str(row.details["export"]) for row in rows if "export" in row.details), otherwise)


def details_of(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, {}, [])}

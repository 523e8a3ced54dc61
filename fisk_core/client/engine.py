# SPDX-License-Identifier: Apache-2.0
"""An engine behind a daemon: the verbs of ``fisk_core.engine.Engine``, and what only a daemon has.

Requests go over HTTP, bytes over NBD: images are read and written on this side, on whichever host that is.
Safe from several threads and after a fork; a context manager.  Raises what the verbs raise, and of its own
Unavailable, Unauthenticated, Forbidden and Overloaded.
"""

import os
import socket
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import quote
from uuid import uuid4

from fisk_core.client import events
from fisk_core.client.address import resolve
from fisk_core.client.admin import RemoteSchedules, RemoteTokens
from fisk_core.client.answers import decode, decode_all
from fisk_core.client.disks import FillingDisk, RemoteBuilding, RemoteDisk, connect, reachable
from fisk_core.client.jobs import Progress, RemoteJobs
from fisk_core.client.locks import RemoteLocks
from fisk_core.client.transport import Patience, Transport
from fisk_core.client.verbs import FiskVerbs, items, labels, path_of
from fisk_core.dataplane.client_tls import Tls
from fisk_core.errors import InvalidValue, ReadOnly, Unavailable
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Attachment, Event, Fisk, Role
from fisk_core.reports import CheckReport, CollectReport, RescanReport, ScrubReport

if TYPE_CHECKING:
    from fisk_core.services.readers import Reader

Attachments = list[Attachment]
Uris = list[str]


class RemoteEngine(FiskVerbs):
    """One daemon.  ``tls`` is what NBD connections over TLS are made with."""

    def __init__(self, transport: Transport, tls: Tls | None = None) -> None:
        self.transport = transport
        self.tls = tls
        self.jobs = RemoteJobs(transport)
        self.locks = RemoteLocks(transport)
        self.schedules = RemoteSchedules(transport)
        self.tokens = RemoteTokens(transport)

    @classmethod
    def open(
        cls,
        url: str | None = None,
        token: str | None = None,
        *,
        cacert: str | None = None,
        home: Path | None = None,
        patience: Patience | None = None,
        tls: Tls | None = None,
    ) -> Self:
        """Give the engine of the daemon at ``url``; see ``fisk_core.client.address`` for what is the default.

        Connects when it is first used.  Raises InvalidValue.
        """
        where = resolve(url, token, cacert, home)
        return cls(Transport(where, patience), tls or Tls(ca=where.cacert))

    @property
    def url(self) -> str:
        return self.transport.address.url

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def about(self) -> dict[str, Any]:
        """Give version, host and limits of the daemon."""
        found: dict[str, Any] = self.transport.call("GET", "")
        return found

    def events(self, after: int | None = None, patience: float | None = None) -> Generator[Event, None, None]:
        """Follow what happens; see ``fisk_core.client.events.follow``."""
        return events.follow(self.transport, after, patience)

    # Attachments

    def attach(
        self,
        ref: str,
        *,
        read_only: bool = False,
        access: str = "nbd",
        consumer: str = "",
        id: str | None = None,
        steal: bool = False,
        incoming: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Attachment:
        """Have a Fisk served on the daemon's host; the same id again gives the attachment made before.

        Raises NotFound, ReadOnly (writing a frozen Fisk), InUse (another host writes it; ``steal`` takes it
        over, ``incoming`` waits for the guest that comes from there), and what the access path lacks:
        MissingTool, Unsupported.
        """
        body: dict[str, Any] = {"read_only": read_only, "access": access, "consumer": consumer}
        # Left out where not asked for: a daemon of before does not know it.
        body |= {"steal": steal} | ({"incoming": True} if incoming else {})
        body |= {"id": id or str(uuid4()), "options": labels(options)}
        answer = self.transport.call("POST", path_of(ref, "attachments"), json=body, again=True)
        return decode(Attachment, answer)

    def attachment(self, id: str) -> Attachment:
        return decode(Attachment, self.transport.call("GET", _attachment(id)))

    def attachments(self, *, fisk: str | None = None, host: str | None = None) -> Attachments:
        """Give the attachments of all hosts that match everything given."""
        answer = self.transport.call("GET", "/attachments", params={"fisk": fisk, "host": host})
        return decode_all(Attachment, items(answer, "attachments"))

    def promote(self, id: str) -> Attachment:
        """Have an attachment that waits for its turn write now; raises InUse when it cannot be had."""
        return decode(Attachment, self.transport.call("POST", f"{_attachment(id)}/promote", again=True))

    def detach(self, id: str, *, force: bool = False) -> None:
        """End an attachment; what was written is durable then.  One that does not exist is ended already."""
        self.transport.call("DELETE", _attachment(id), params={"force": "true" if force else "false"})

    def upgrade(self, ref: str | None = None) -> int:
        """Hand the worker of one Fisk, or all on the daemon's host, over to new ones; gives how many."""
        answer = self.transport.call("POST", "/upgrades", json={"ref": ref})
        return int(answer["upgraded"])

    def workers(self) -> list[dict[str, Any]]:
        """Give status and metrics of every worker on the daemon's host, as they tell them."""
        return list(items(self.transport.call("GET", "/workers"), "workers"))

    # Using

    @contextmanager
    def _attached(self, fisk: Fisk) -> Iterator[Attachment]:
        attachment = self.attach(fisk.id, read_only=True, consumer=_consumer())
        try:
            yield attachment
        finally:
            self.detach(attachment.id)

    def open_disk(self, ref: str, *, writable: bool = False) -> RemoteDisk:
        """Attach a Fisk and open it here; it is detached when closed."""
        fisk = self.get(ref)
        if writable and fisk.frozen:
            raise ReadOnly(f"Fisk '{fisk.name}' is frozen; clone it to write")
        attachment = self.attach(fisk.id, read_only=not writable, consumer=_consumer())
        try:
            client = connect(attachment.uris, self.tls)
        except BaseException:
            self.detach(attachment.id)
            raise
        return RemoteDisk(client, fisk.block_size, writable, lambda: self.detach(attachment.id))

    @contextmanager
    def reading(self, fisk: Fisk) -> "Iterator[Reader]":
        """Open a Fisk to be read from start to end."""
        from fisk_core.services.readers import NbdReader

        with self._attached(fisk) as attachment, connect(attachment.uris, self.tls) as client:
            yield NbdReader(client)

    @contextmanager
    def served(self, fisk: Fisk) -> Iterator[str]:
        """Give an NBD URI to read a Fisk from, good until the end of the block."""
        with self._attached(fisk) as attachment:
            plain = [uri for uri in reachable(attachment.uris) if not uri.startswith("nbds")]
            if not plain:
                raise Unavailable(f"no NBD server without TLS has Fisk '{fisk.name}' for us")
            yield plain[0]

    def served_at(self, fisk: Fisk) -> Uris:
        """Give the NBD URIs at which a Fisk is attached, on any host."""
        return list(dict.fromkeys(uri for each in self.attachments(fisk=fisk.id) for uri in each.uris))

    def picture(self, ref: str, buckets: int = 256) -> dict[str, Any]:
        """Give who owns how much of each of at most ``buckets`` (1024) equal parts of a Fisk.

        ``size`` and ``bucket`` in bytes; ``layers`` (id, bytes …), oldest first; ``buckets``: of each the
        largest ``shares`` (index of a layer, bytes), and the bytes of ``others``.
        """
        params = {"buckets": max(1, min(buckets, 1024))}
        found: dict[str, Any] = self.transport.call("GET", path_of(ref, "map"), params=params)
        return found

    # Moving bytes in and out

    def import_image(
        self, source: str | Path | IO[bytes], name: str, *, on_server: bool = False, **options: Any
    ) -> Fisk:
        """Make a Fisk from an image file or stream; see ``fisk_core.services.importer.import_image``.

        ``on_server``: ``source`` is a path on the daemon's host, and the daemon does it all.
        """
        if not on_server:
            from fisk_core.services import importer

            return importer.import_image(self, source, name, **options)
        if not isinstance(source, (str, Path)):
            raise InvalidValue("a stream cannot be read by the daemon")
        progress = options.pop("progress", None)
        options.pop("size", None)  # known there
        options["id"] = options.get("id") or str(uuid4())
        result = self.jobs.run("import", {"source": str(source), "name": name, **options}, progress)
        return self.get(result["fisk"])

    def download(
        self, ref: str, target: str | Path | IO[bytes], *, on_server: bool = False, **options: Any
    ) -> None:
        """Write a Fisk to a file or stream; see ``fisk_core.services.exporter.download``.

        ``on_server``: ``target`` is a path on the daemon's host, and the daemon does it all.
        """
        if not on_server:
            from fisk_core.services import exporter

            exporter.download(self, self.get(ref), target, **options)
            return
        if not isinstance(target, (str, Path)):
            raise InvalidValue("a stream cannot be written by the daemon")
        progress = options.pop("progress", None)
        self.jobs.run("download", {"ref": ref, "target": str(target), **options}, progress)

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
    ) -> RemoteBuilding:
        """Reserve the name and open a hidden Fisk for writing; raises AlreadyExists, NoSpace."""
        body = {"name": name, "size": size, "pool": pool, "role": role, "attributes": labels(attributes)}
        body |= {"block_size": block_size, "page_size": page_size, "id": id or str(uuid4())}
        answer = self.transport.call("POST", "/builds", json=body, again=True)
        fisk_id = str(answer["fisk_id"])
        try:
            client = connect(answer["uris"], self.tls)
        except BaseException:
            self.drop_build(fisk_id)
            raise
        return RemoteBuilding(self, fisk_id, FillingDisk(client, block_size))

    def show_build(
        self, fisk_id: str, *, size: int, frozen: bool, attributes: Mapping[str, str] | None
    ) -> Fisk:
        """Finish a Fisk under construction to which all was written; see ``RemoteBuilding.finish``."""
        body = {"size": size, "frozen": frozen, "attributes": labels(attributes)}
        answer = self.transport.call("POST", f"{_build(fisk_id)}/finish", json=body, again=True)
        return decode(Fisk, answer)

    def drop_build(self, fisk_id: str) -> None:
        self.transport.call("DELETE", _build(fisk_id))

    @contextmanager
    def staging_file(self, pool: str | None = None) -> Iterator[Path]:
        """Give the path of a temporary file of this host, gone at the end of the block."""
        with tempfile.NamedTemporaryFile(prefix="fisk-") as file:
            yield Path(file.name)

    # Keeping things in order

    def move(self, ref: str, pool: str, *, progress: Progress | None = None) -> Fisk:
        """Have a Fisk live in another pool, also while it is attached."""
        fisk_id = self.get(ref).id
        self.jobs.run("move", {"ref": fisk_id, "pool": pool}, progress)
        return self.get(fisk_id)

    def check(self, *, repair: bool = False, progress: Progress | None = None) -> CheckReport:
        return decode(CheckReport, self.jobs.run("check", {"repair": repair}, progress))

    def scrub(self, *refs: str, progress: Progress | None = None) -> ScrubReport:
        return decode(ScrubReport, self.jobs.run("scrub", {"refs": list(refs)}, progress))

    def collect(self, *, dry_run: bool = False, progress: Progress | None = None) -> CollectReport:
        return decode(CollectReport, self.jobs.run("collect", {"dry_run": dry_run}, progress))

    def rescan(self, name: str, *, progress: Progress | None = None, **options: Any) -> RescanReport:
        return decode(RescanReport, self.jobs.run("rescan", {"pool": name, **options}, progress))


def _consumer() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _attachment(id: str) -> str:
    return f"/attachments/{quote(id, safe='')}"


def _build(fisk_id: str) -> str:
    return f"/builds/{quote(fisk_id, safe='')}"

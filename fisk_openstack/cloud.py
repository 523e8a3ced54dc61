# SPDX-License-Identifier: Apache-2.0
"""What the services of a cloud know, asked through openstacksdk: ids, names, states."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fisk_core.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from fisk_openstack.labels import Kind

if TYPE_CHECKING:
    from openstack.connection import Connection

HOME = {
    Kind.IMAGE: Kind.IMAGE,
    Kind.ORIGINAL: Kind.IMAGE,
    Kind.VOLUME: Kind.VOLUME,
    Kind.SNAPSHOT: Kind.SNAPSHOT,
    Kind.BACKUP: Kind.BACKUP,
    Kind.BASE: Kind.BACKUP,
    Kind.DISK: Kind.DISK,
}
"""kind of a Fisk → kind of the resource it belongs to; for a disk that is its server"""


@dataclass(frozen=True, slots=True)
class Resource:
    """An image, volume, snapshot, backup or server.

    ``host`` is where Cinder or Nova has it; ``parent`` is the volume of a snapshot or backup, the image of a
    server; ``stores`` are those that have an image, None where Glance does not say; ``place`` is a backup's
    container; ``task`` is what Nova is doing with a server.
    """

    id: str
    name: str
    status: str
    changed_at: datetime
    project: str = ""
    host: str = ""
    parent: str = ""
    stores: tuple[str, ...] | None = None
    attached: bool = False
    place: str = ""
    task: str = ""


Resources = Mapping[str, Resource]


class Cloud:
    """One region of a cloud, as one user sees it.

    Every method raises Unauthenticated, Forbidden, and Unavailable for a service that does not answer.
    """

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._listing: dict[Kind, Callable[[], Iterable[tuple[str, Resource]]]] = {
            Kind.IMAGE: self._images,
            Kind.VOLUME: self._volumes,
            Kind.SNAPSHOT: self._snapshots,
            Kind.BACKUP: self._backups,
            Kind.DISK: self._servers,
        }

    def resources(self, kind: Kind) -> Resources:
        """Give all there are of a kind, by the id Fisks have as label; servers for disks."""
        with _errors():
            return dict(self._listing[HOME[kind]]())

    def exists(self, kind: Kind, own: str) -> bool:
        """Whether the service has a resource with this id."""
        services = self._connection
        get: dict[Kind, Callable[[str], Any]] = {
            Kind.IMAGE: services.image.get_image,
            Kind.VOLUME: services.block_storage.get_volume,
            Kind.SNAPSHOT: services.block_storage.get_snapshot,
            Kind.BACKUP: services.block_storage.get_backup,
            Kind.DISK: services.compute.get_server,
        }
        try:
            with _errors():
                get[HOME[kind]](own)
        except NotFound:
            return False
        return True

    @property
    def _identity(self) -> Any:
        """Keystone: that of version 3, the only one there still is."""
        return self._connection.identity

    def projects(self) -> frozenset[str]:
        """Give the ids of all projects; raises Forbidden for who is no administrator."""
        with _errors():
            return frozenset(each.id for each in self._identity.projects())

    def regions(self) -> list[str]:
        """Give the regions of the cloud."""
        with _errors():
            return [each.id for each in self._identity.regions()]

    def volume_hosts(self) -> frozenset[str]:
        """Give ``HOST@BACKEND#POOL`` of every back end of Cinder that is a Fisk one."""
        with _errors():
            pools = self._connection.block_storage.backend_pools()
            return frozenset(
                each.name for each in pools if (each.capabilities or {}).get("vendor_name") == "Fisk"
            )

    def locations(self, image: str) -> list[str] | None:
        """Give the URLs of an image's data, None where we may not see them."""
        try:
            with _errors():
                found = self._connection.image.get(f"/images/{image}/locations", microversion=None)
                return [each["url"] for each in found.json()] if found.status_code == 200 else None
        except (Forbidden, NotFound):
            return None

    def _images(self) -> Iterator[tuple[str, Resource]]:
        for hidden in (False, True):
            for each in self._connection.image.images(is_hidden=hidden, visibility="all"):
                stores = each.to_dict().get("stores")
                kept = None if stores is None else tuple(filter(None, stores.split(",")))
                yield each.id, Resource(**_usual(each), project=each.owner_id or "", stores=kept)

    def _volumes(self) -> Iterator[tuple[str, Resource]]:
        for each in self._connection.block_storage.volumes(all_projects=True):
            found = Resource(
                **_usual(each),
                project=each.project_id or "",
                host=each.host or "",
                attached=bool(each.attachments),
            )
            yield each.id, found
            if each.migration_id:  # a volume that was migrated by copying keeps the Fisk of the copy
                yield each.migration_id, found

    def _snapshots(self) -> Iterator[tuple[str, Resource]]:
        for each in self._connection.block_storage.snapshots(all_projects=True):
            yield each.id, Resource(**_usual(each), parent=each.volume_id or "")

    def _backups(self) -> Iterator[tuple[str, Resource]]:
        for each in self._connection.block_storage.backups(all_projects=True):
            yield each.id, Resource(**_usual(each), place=each.container or "", parent=each.volume_id or "")

    def _servers(self) -> Iterator[tuple[str, Resource]]:
        try:
            found = list(self._connection.compute.servers(all_projects=True))
        except Exception as problem:  # openstacksdk's classes are known only where it is installed
            if getattr(problem, "http_status", None) != 403:
                raise
            found = list(self._connection.compute.servers())
        for each in found:
            yield (
                each.id,
                Resource(
                    **_usual(each),
                    project=each.project_id or "",
                    host=each.compute_host or "",
                    parent=(each.image or {}).get("id") or "",
                    task=each.task_state or "",
                ),
            )


def _usual(found: Any) -> dict[str, Any]:
    moment = getattr(found, "updated_at", None) or found.created_at
    changed = datetime.fromisoformat(moment)
    if changed.tzinfo is None:
        changed = changed.replace(tzinfo=UTC)
    return {"id": found.id, "name": found.name or "", "status": found.status or "", "changed_at": changed}


@contextmanager
def _errors() -> Iterator[None]:
    """Say in our words what a service answers."""
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        yield
    except (ClientException, SDKException) as problem:
        status = getattr(problem, "http_status", None) or getattr(problem, "status_code", None)
        kinds = {401: Unauthenticated, 403: Forbidden, 404: NotFound}
        raise kinds.get(status or 0, Unavailable)(f"the cloud says: {problem}") from problem

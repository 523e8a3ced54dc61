# SPDX-License-Identifier: Apache-2.0
"""The daemon on the compute host: what it serves to which server.

An attachment's id follows from host, server and Fisk, so asking again, in a hard reboot or after nova-compute
was restarted, gives the one there is; and two servers that share a volume have one each.
"""

import functools
import uuid
from contextlib import suppress
from typing import Any

import nova.conf

from fisk_core.client import RemoteEngine
from fisk_core.errors import AlreadyExists, NotFound
from fisk_core.model import Access, Attachment
from fisk_openstack import connection
from fisk_openstack.labels import SERVER, Kind
from fisk_openstack.nova_imagebackend.registration import GROUP

CONF = nova.conf.CONF
_NAMESPACE = uuid.UUID("5f15c0de-0000-4000-8000-0f15c0000002")


@functools.cache
def engine() -> RemoteEngine:
    """Give the engine of this host, the same one to everybody."""
    return connection.connect(CONF[GROUP])


@functools.cache
def host() -> str:
    """Give the name the daemon has for this host."""
    return str(engine().about()["host"])


def attachment_id(fisk_id: str, server: str) -> str:
    """Give the id of a server's attachment of a Fisk on this host."""
    return str(uuid.uuid5(_NAMESPACE, f"{CONF.host}:{server}:{fisk_id}"))


def attach(
    fisk_id: str,
    server: str,
    access: Access,
    *,
    read_only: bool = False,
    steal: bool = False,
    incoming: bool = False,
) -> Attachment:
    """Have a Fisk served to a server on this host; raises what ``RemoteEngine.attach`` does."""
    own = attachment_id(fisk_id, server)
    call = functools.partial(
        engine().attach,
        fisk_id,
        id=own,
        access=access,
        consumer=server,
        read_only=read_only,
        steal=steal,
        incoming=incoming,
    )
    try:
        return call()
    except AlreadyExists:  # made when guests reached their disks another way: nobody can be using it now
        engine().detach(own)
        return call()


def attachment(fisk_id: str, server: str) -> Attachment:
    """Give what ``attach`` made; raises NotFound."""
    return engine().attachment(attachment_id(fisk_id, server))


def detach(fisk_id: str, server: str, *, force: bool = False) -> None:
    """End a server's use of a Fisk on this host, if there is any; what was written is durable then."""
    engine().detach(attachment_id(fisk_id, server), force=force)


def used(server: str) -> list[Attachment]:
    """Give what is attached here for a server."""
    return [each for each in engine().attachments(host=host()) if each.consumer == server]


def expected(server: str) -> list[Attachment]:
    """Give what waits on another host for a server that moves there."""
    found = engine().attachments()
    return [each for each in found if each.consumer == server and each.incoming and each.host != host()]


def release(server: str) -> None:
    """End all that is attached here for a server whose guest is not there any more."""
    for each in used(server):
        engine().detach(each.id, force=True)


def elsewhere(fisk_id: str) -> bool:
    """Whether a Fisk is attached on another host."""
    return any(each.host != host() for each in engine().attachments(fisk=fisk_id))


def disks(server: str) -> dict[str, str]:
    """Give all Fisks a server owns: name of the disk, and id."""
    found = engine().list(attributes={SERVER: server})
    own = {fisk.attributes.get(Kind.DISK.value, ""): fisk.id for fisk in found}
    return {name.partition("/")[2]: own[name] for name in own}


def delete(*ids: str) -> None:
    """Delete Fisks; harmless for those that are gone."""
    for each in ids:
        with suppress(NotFound):
            engine().delete(each)


def disk_at(disk: Any) -> str | None:
    """Give ``SERVER/NAME`` of the disk an NBD disk of a guest's configuration is, None for anything else."""
    if disk.source_protocol != "nbd" or not disk.source_name:
        return None
    for each in engine().attachments(host=host()):
        if any(uri.endswith(f"/{disk.source_name}") for uri in each.uris):
            return engine().get(each.fisk_id).attributes.get(Kind.DISK.value)
    return None

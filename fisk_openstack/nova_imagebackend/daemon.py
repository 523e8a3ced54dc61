# SPDX-License-Identifier: Apache-2.0
"""The daemon on the compute host, and how guests reach what it serves.

An attachment's id follows from Fisk and host, so asking again, in a hard reboot or after nova-compute was
restarted, gives the one there is.
"""

import functools
import uuid
from typing import Any
from urllib.parse import urlsplit

import nova.conf

from fisk_core.client import RemoteEngine
from fisk_core.errors import Unsupported
from fisk_core.model import Attachment
from fisk_openstack import connection
from fisk_openstack.labels import Kind
from fisk_openstack.nova_imagebackend.registration import GROUP

CONF = nova.conf.CONF
_NAMESPACE = uuid.UUID("5f15c0de-0000-4000-8000-0f15c0000002")


@functools.cache
def engine() -> RemoteEngine:
    """Give the engine of this host, the same one to everybody."""
    return connection.connect(CONF[GROUP])


def attachment_id(fisk_id: str) -> str:
    """Give the id of this host's attachment of a Fisk."""
    return str(uuid.uuid5(_NAMESPACE, f"{CONF.host}:{fisk_id}"))


def attach(fisk_id: str, consumer: str, *, read_only: bool = False, steal: bool = False) -> Attachment:
    """Have a Fisk served on this host, for a server; raises what ``RemoteEngine.attach`` does."""
    return engine().attach(
        fisk_id, id=attachment_id(fisk_id), consumer=consumer, read_only=read_only, steal=steal
    )


def detach(fisk_id: str) -> None:
    """End this host's use of a Fisk, if there is any."""
    engine().detach(attachment_id(fisk_id))


def point(disk: Any, attachment: Attachment) -> None:
    """Have the disk of a guest's configuration reach an attached Fisk; raises Unsupported."""
    for uri in attachment.uris:
        parts = urlsplit(uri)
        if parts.scheme == "nbd" and parts.hostname and parts.port:
            disk.source_type, disk.source_protocol = "network", "nbd"
            disk.source_name = parts.path.removeprefix("/")
            disk.source_hosts, disk.source_ports = [parts.hostname], [str(parts.port)]
            disk.driver_format = "raw"
            return
    raise Unsupported("the daemon of this host serves nothing over TCP: set [nbd] listen")


def disk_at(disk: Any) -> str | None:
    """Give ``SERVER/NAME`` of the server's disk a guest's configuration points to, None for anything else."""
    if disk.source_type != "network" or disk.source_protocol != "nbd":
        return None
    for attachment in engine().attachments(host=engine().about()["host"]):
        if any(uri.endswith(f"/{disk.source_name}") for uri in attachment.uris):
            return engine().get(attachment.fisk_id).attributes.get(Kind.DISK.value)
    return None

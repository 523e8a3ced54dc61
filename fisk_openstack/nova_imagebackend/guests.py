# SPDX-License-Identifier: Apache-2.0
"""How a guest reaches what the daemon of its host serves: over NBD, or as a block device.

Over NBD a guest gets errors once its worker was killed, unless QEMU connects again; libvirt can tell it to
since 9.2.  A block device waits for the next worker by itself.
"""

from typing import Any
from urllib.parse import urlsplit

import nova.conf
from lxml import etree
from nova.virt.libvirt import config as vconfig

from fisk_core.errors import Unsupported
from fisk_core.model import Access, Attachment
from fisk_openstack.nova_imagebackend.registration import GROUP

CONF = nova.conf.CONF
RECONNECTS = 9_002_000
"""The version of libvirt that knows ``<reconnect>`` in disks."""
RECONNECT_SECONDS = 60
"""How long requests of a guest wait for the next worker, as they do with the other access paths."""
_libvirt = 0


def knows(version: int) -> None:
    """Take note of the version of libvirt on this host: 9.2.1 is 9002001."""
    global _libvirt
    _libvirt = version


def access(*, device: bool = False) -> Access:
    """Say how guests reach disks here; ``device``: somebody else works on it, too."""
    wanted = CONF[GROUP].fisk_guest_access
    if wanted == "auto":
        wanted = "nbd" if _libvirt >= RECONNECTS else "block"
    return Access.BLOCK if device else Access(wanted)


def access_to_volume(*, encrypted: bool) -> Access:
    """Say how guests reach volumes here.

    These may grow while they are used, which QEMU notices of a device only: over NBD it learns the size when
    it connects.  So they are devices, unless it is said otherwise; and always for encryptors of the host.
    """
    return access(device=encrypted or CONF[GROUP].fisk_guest_access == "auto")


class GuestDisk(vconfig.LibvirtConfigGuestDisk):  # type: ignore[misc]  # Nova carries no types
    """A disk over the network that is connected to again."""

    def __init__(self, like: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if like is not None:
            self.__dict__.update(vars(like))

    def format_dom(self) -> Any:
        """Give the XML."""
        disk = super().format_dom()
        source = disk.find("source")
        if source is not None and self.source_type == "network" and _libvirt >= RECONNECTS:
            source.append(etree.Element("reconnect", delay=str(RECONNECT_SECONDS)))
        return disk


def repoint(disk: Any, attachment: Attachment, path: str) -> None:
    """Have a disk in the XML of a guest reach another attachment of its Fisk; raises Unsupported."""
    conf = GuestDisk()
    conf.target_dev, conf.target_bus = (disk.find("target").get(each, "") for each in ("dev", "bus"))
    point(conf, attachment, path)
    made = conf.format_dom()
    before = disk.find("source")
    place = disk.index(before)
    disk.remove(before)
    disk.insert(place, made.find("source"))
    disk.set("type", made.get("type"))


def point(disk: Any, attachment: Attachment, path: str) -> None:
    """Have the disk of a guest's configuration reach an attached Fisk, a device at ``path``.

    Raises Unsupported.
    """
    disk.driver_format = "raw"
    if attachment.path:
        disk.source_type, disk.source_path = "block", path
        return
    for uri in attachment.uris:
        parts = urlsplit(uri)
        if parts.scheme == "nbd" and parts.hostname and parts.port:
            disk.source_type, disk.source_protocol, disk.source_path = "network", "nbd", None
            disk.source_name = parts.path.removeprefix("/")
            disk.source_hosts, disk.source_ports = [parts.hostname], [str(parts.port)]
            return
    raise Unsupported("the daemon of this host serves nothing over TCP: set [nbd] listen")

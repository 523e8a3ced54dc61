# SPDX-License-Identifier: Apache-2.0
"""Paths of our disks, as Nova passes them around: ``STATE_PATH/fisk/disks/SERVER/NAME``.

Guests that use a block device are given such a path, for it is the same on every host, and after a host was
restarted: a link to the device, which may have another number then.  For guests that speak NBD it is a name
only; nothing is there.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nova.conf
from nova.virt.libvirt import config as vconfig

from fisk_openstack.nova_imagebackend import daemon

CONF = nova.conf.CONF


def _disks() -> str:
    return os.path.join(CONF.state_path, "fisk", "disks", "")


def path_of(own: str) -> str:
    """Give the path of the disk ``SERVER/NAME``."""
    return _disks() + own


def is_ours(path: str | None) -> bool:
    """Whether a path is one of a disk of ours."""
    return bool(path) and str(path).startswith(_disks())


def own_of(path: str) -> str:
    """Give ``SERVER/NAME`` of a path; raises ValueError for one that is not ours."""
    server, slash, name = path.removeprefix(_disks()).partition("/")
    if not (is_ours(path) and server and slash and name):
        raise ValueError(f"'{path}' is not {_disks()}SERVER/NAME")
    return f"{server}/{name}"


def volume_path(server: str, volume_id: str) -> str:
    """Give the path of a volume that a server uses."""
    return os.path.join(CONF.state_path, "fisk", "volumes", server, volume_id)


def link(path: str, device: str) -> None:
    """Have a path lead to a device."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = f"{path}.new"
    Path(new).unlink(missing_ok=True)
    os.symlink(device, new)
    os.replace(new, path)


def unlink(path: str) -> None:
    """Forget a path, and its directory when that is empty then; harmless when done twice."""
    Path(path).unlink(missing_ok=True)
    with suppress(OSError):  # another disk is there
        os.rmdir(os.path.dirname(path))


def typing(stock: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Wrap ``get_disk_type_from_path``: ours are of type fisk."""

    def get_disk_type_from_path(path: str) -> str | None:
        return "fisk" if is_ours(path) else stock(path)

    return get_disk_type_from_path


def finding(stock: Callable[[Any], tuple[str, str | None]]) -> Callable[[Any], tuple[str, str | None]]:
    """Wrap ``find_disk``: the root disk of a guest may be one of ours."""

    def find_disk(guest: Any) -> tuple[str, str | None]:
        disks = (d for d in guest.get_config().devices if isinstance(d, vconfig.LibvirtConfigGuestDisk))
        root = next(disks, None)
        own = daemon.disk_at(root) if root is not None and root.source_type == "network" else None
        return (path_of(own), "raw") if own else stock(guest)

    return find_disk

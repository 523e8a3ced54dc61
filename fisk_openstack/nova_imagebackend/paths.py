# SPDX-License-Identifier: Apache-2.0
"""Paths of our disks, as Nova passes them around: ``fisk:SERVER/NAME``."""

from collections.abc import Callable
from typing import Any

from nova.virt.libvirt import config as vconfig

from fisk_openstack.nova_imagebackend import daemon

PREFIX = "fisk:"


def path_of(own: str) -> str:
    """Give the path of the disk ``SERVER/NAME``."""
    return f"{PREFIX}{own}"


def own_of(path: str) -> str:
    """Give ``SERVER/NAME`` of a path; raises ValueError for one that is not ours."""
    server, slash, name = path.removeprefix(PREFIX).partition("/")
    if not (path.startswith(PREFIX) and server and slash and name):
        raise ValueError(f"'{path}' is not {PREFIX}SERVER/NAME")
    return f"{server}/{name}"


def typing(stock: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Wrap ``get_disk_type_from_path``: ours are of type fisk."""

    def get_disk_type_from_path(path: str) -> str | None:
        return "fisk" if path.startswith(PREFIX) else stock(path)

    return get_disk_type_from_path


def finding(stock: Callable[[Any], tuple[str, str | None]]) -> Callable[[Any], tuple[str, str | None]]:
    """Wrap ``find_disk``: the root disk of a guest may be one of ours."""

    def find_disk(guest: Any) -> tuple[str, str | None]:
        disks = (d for d in guest.get_config().devices if isinstance(d, vconfig.LibvirtConfigGuestDisk))
        root = next(disks, None)
        own = daemon.disk_at(root) if root is not None else None
        return (path_of(own), "raw") if own else stock(guest)

    return find_disk

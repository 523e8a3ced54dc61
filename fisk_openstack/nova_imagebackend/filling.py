# SPDX-License-Identifier: Apache-2.0
"""Disks that are made of a file: swap, ephemeral disks, config drives.

A config drive is part of its guest's configuration before its content is known.  So it is made empty,
attached, and filled in place when the guest is defined.
"""

import os
from collections.abc import Mapping

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk, Role
from fisk_core.services.importer import import_image
from fisk_openstack.labels import Kind, find, fisk_id, fisk_name, search

EMPTY = "openstack.empty"
"""Attribute of a disk whose content is still to come."""
CONFIG_DRIVE = 64 << 20
"""Bytes of an empty config drive: what Nova makes with a FAT file system, and more than one with ISO 9660."""
_PIECE = 1 << 20


def is_empty(fisk: Fisk) -> bool:
    """Whether the content of a disk is still to come."""
    return EMPTY in fisk.attributes


def make(engine: RemoteEngine, path: str, own: str, attributes: Mapping[str, str], pool: str) -> None:
    """Make the disk ``own`` of a raw file."""
    import_image(
        engine,
        path,
        fisk_name(Kind.DISK, own),
        format="raw",
        role=Role.DISK,
        frozen=False,
        pool=pool,
        attributes=attributes,
        id=fisk_id(Kind.DISK, own),
    )


def ensure(engine: RemoteEngine, own: str, attributes: Mapping[str, str], pool: str) -> None:
    """Make the disk ``own`` empty, if it is not there."""
    if search(engine, Kind.DISK, own) is None:
        engine.create(
            fisk_name(Kind.DISK, own),
            CONFIG_DRIVE,
            pool=pool,
            role=Role.DISK,
            attributes={**attributes, EMPTY: "yes"},
            id=fisk_id(Kind.DISK, own),
        )


def fill(engine: RemoteEngine, path: str, own: str, attributes: Mapping[str, str], pool: str) -> None:
    """Give the disk ``own`` the content of a file; it may be attached meanwhile."""
    ensure(engine, own, attributes, pool)
    found, size = find(engine, Kind.DISK, own), os.path.getsize(path)
    if size > found.size:
        engine.resize(found.id, size)
    with open(path, "rb") as file, engine.open_disk(found.id, writable=True) as disk:
        for offset in range(0, size, _PIECE):
            disk.write(offset, file.read(_PIECE))
        disk.flush()
    engine.set(found.id, attributes={EMPTY: None})

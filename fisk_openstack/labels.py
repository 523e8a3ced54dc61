# SPDX-License-Identifier: Apache-2.0
"""What a Fisk is in OpenStack: attributes that carry its ids and names, and how it is found by them.

An adapter gives a Fisk an id that follows from the OpenStack one, so making it twice makes it once.  It is
looked for under that id first, then by attribute: an adopted Fisk keeps the id it had.
"""

import uuid
from enum import StrEnum

from fisk_core.errors import NotFound
from fisk_core.model import Fisk
from fisk_core.protocol import Verbs

NAME = "openstack.name"
"""Attribute: the name a person gave it."""
PROJECT = "openstack.project"
"""Attribute: the project it belongs to."""
READERS = "openstack.readers"
"""Attribute of an image: which other projects may use it, ``*`` for all, ``-`` for none."""
SHOWN = "openstack.volume.shown"
"""Attribute of a volume that Cinder migrated by copying: the id people know it by.

``openstack.volume`` is the id it was copied under, which Cinder calls ``name_id`` and its drivers work with.
"""
_NAMESPACE = uuid.UUID("5f15c0de-0000-4000-8000-0f15c0000001")


class Kind(StrEnum):
    """What OpenStack calls it; the value is the attribute with its OpenStack id."""

    IMAGE = "openstack.image"
    ORIGINAL = "openstack.original"
    """the very bytes that were uploaded as an image that is not raw"""
    VOLUME = "openstack.volume"
    SNAPSHOT = "openstack.snapshot"
    BACKUP = "openstack.backup"
    BASE = "openstack.base"
    """what a volume held when the backup with this id was made elsewhere: it tells what changed since"""
    DISK = "openstack.disk"
    """a disk of a server: ``SERVER_ID/NAME``"""

    @property
    def word(self) -> str:
        """The kind as a word: image, volume …"""
        return self.value.removeprefix("openstack.")


SERVER = "openstack.server"
"""Attribute of a server's disks: the id of the server, which owns them."""


def fisk_id(kind: Kind, own: str) -> str:
    """Give the id a Fisk is made with for the OpenStack id ``own``."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind.word}:{own}"))


def fisk_name(kind: Kind, own: str) -> str:
    """Give the name a Fisk is made with: unique, and readable in lists."""
    return f"{kind.word}-{own.replace('/', '-')}"


def labels(kind: Kind, own: str, *, name: str | None = None, project: str | None = None) -> dict[str, str]:
    """Give the attributes of the Fisk that is ``own`` in OpenStack."""
    found = {kind.value: own, NAME: name or "", PROJECT: project or ""}
    return {key: value for key, value in found.items() if value}


def search(engine: Verbs, kind: Kind, own: str, *, pool: str | None = None) -> Fisk | None:
    """Give the Fisk that is ``own`` in OpenStack, None when there is none.

    An image that several stores have is several Fisks: the one in ``pool`` comes before others.
    """
    try:
        found = engine.get(fisk_id(kind, own))
    except NotFound:
        pass
    else:
        if found.attributes.get(kind.value) == own and pool in (None, found.pool):
            return found
    every = engine.list(attributes={kind.value: own})
    return next((each for each in every if each.pool == pool), next(iter(every), None))


def find(engine: Verbs, kind: Kind, own: str) -> Fisk:
    """Give the Fisk that is ``own`` in OpenStack; raises NotFound."""
    found = search(engine, kind, own)
    if found is None:
        raise NotFound(f"there is no Fisk of {kind.word} {own}")
    return found

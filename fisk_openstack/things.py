# SPDX-License-Identifier: Apache-2.0
"""What people call a Fisk: the resource of OpenStack it is, and the name they gave that."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fisk_core.errors import FiskError, InvalidValue, NotFound
from fisk_core.model import Fisk
from fisk_core.protocol import Verbs
from fisk_openstack.cloud import HOME, Cloud
from fisk_openstack.labels import NAME, SERVER, SHOWN, Kind, search


@dataclass(frozen=True, slots=True)
class Thing:
    """A Fisk; ``kind`` is what it is to OpenStack, or its role where it is nothing there.

    ``own`` is its id in OpenStack, ``SERVER/DISK`` for a server's disk, "" where it has none.
    """

    fisk: Fisk
    kind: str
    own: str
    name: str


Names = Mapping[tuple[Kind, str], str]
"""(kind, id in OpenStack) → name"""


def kind_of(fisk: Fisk) -> tuple[Kind, str] | None:
    """Give what a Fisk is to OpenStack: (kind, id), None if it is nothing there."""
    return next(((kind, fisk.attributes[kind]) for kind in Kind if kind in fisk.attributes), None)


def things(fisks: Iterable[Fisk], cloud: Cloud | None) -> Iterator[Thing]:
    """Give what Fisks are called, in their order.

    Names are those the services tell us; else, and where we may not see a resource, those it had when its
    Fisk was made.
    """
    every = list(fisks)
    kinds = {HOME[found[0]] for fisk in every if (found := kind_of(fisk))}
    names = {kind: _names(cloud, kind) for kind in kinds}
    for fisk in every:
        found = kind_of(fisk)
        if found is None:
            yield Thing(fisk, fisk.role, "", fisk.name)
            continue
        kind, own = found
        own = fisk.attributes.get(SHOWN, own) if kind is Kind.VOLUME else own
        yield Thing(fisk, kind.word, own, _name(fisk, kind, own, names[HOME[kind]]))


def _name(fisk: Fisk, kind: Kind, own: str, names: Mapping[str, str]) -> str:
    if kind is not Kind.DISK:
        return names.get(own) or fisk.attributes.get(NAME) or ""
    server, _, disk = own.partition("/")
    return f"{names.get(server) or fisk.attributes.get(NAME) or server}/{disk}"


def _names(cloud: Cloud | None, kind: Kind) -> dict[str, str]:
    if cloud is None:
        return {}
    try:
        return {own: each.name for own, each in cloud.resources(kind).items()}
    except FiskError:  # a service that does not answer, or not to us, keeps nobody from seeing Fisks
        return {}


def find_thing(engine: Verbs, ref: str, cloud: Cloud | None) -> Fisk:
    """Give the Fisk with a name or id of its own, or in OpenStack.

    A server is named with its disk, ``SERVER/disk``, unless it has one only.  Raises NotFound, and
    InvalidValue when there are several.
    """
    try:
        return engine.get(ref)
    except NotFound as problem:
        found = list(_by_id(engine, ref)) or list(_by_name(engine, ref, cloud))
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(str(problem)) from None
        which = ", ".join(sorted(each.name for each in found))
        raise InvalidValue(f"'{ref}' may be any of {which}") from None


def _by_id(engine: Verbs, own: str) -> Iterator[Fisk]:
    if shown := engine.list(attributes={SHOWN: own}):  # before what it was copied from
        yield from shown
        return
    for kind in (Kind.VOLUME, Kind.SNAPSHOT, Kind.IMAGE, Kind.BACKUP, Kind.DISK):
        found = search(engine, kind, own)
        if found is not None:
            yield found
            return
    yield from engine.list(attributes={SERVER: own})


def _by_name(engine: Verbs, name: str, cloud: Cloud | None) -> Iterator[Fisk]:
    hidden = (Kind.ORIGINAL.word, Kind.BASE.word)
    for each in things(engine.list(), cloud):
        if each.kind not in hidden and name in (each.name, each.name.rpartition("/")[0]):
            yield each.fisk

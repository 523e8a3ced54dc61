# SPDX-License-Identifier: Apache-2.0
"""Fisks: list, create, look at, change, resize, delete."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import OPERATOR, READER
from fisk_core.api.models import (
    Attributes,
    Body,
    Creation,
    IdQuery,
    Key,
    Name,
    NameQuery,
    PageSize,
    Ref,
    RefInPath,
    RoleLabel,
    RoleQuery,
    Size,
    Value,
)
from fisk_core.api.operation import Operations
from fisk_core.api.paging import page_size
from fisk_core.api.services import Given
from fisk_core.catalog import listing
from fisk_core.errors import InvalidValue, NotFound
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Fisk, Role

router = Operations("fisks")

_MISSING = (errors.NotFound,)
_CHANGES = (errors.NotFound, errors.InUse, errors.AlreadyExists, errors.NoSpace, errors.Unsupported)


@dataclass(frozen=True, slots=True)
class FiskPage:
    """Some Fisks, oldest first; ``next`` is the ``marker`` of the next page, null at the end."""

    fisks: list[Fisk]
    next: str | None


class NewFisk(Creation):
    """An empty live Fisk."""

    name: Name
    size: Size
    pool: Name | None = None
    role: RoleLabel = Role.VOLUME.value
    attributes: Attributes | None = None
    block_size: int = Field(BLOCK_SIZE, ge=512, le=1 << 30, description="a power of two")
    page_size: int = Field(PAGE_SIZE, ge=512, le=1 << 30, description="a power of two")


class FiskChanges(Body):
    """What shall be different; an attribute of null is removed, others stay."""

    name: Name | None = None
    role: RoleLabel | None = None
    attributes: dict[Key, Value | None] | None = Field(None, max_length=limits.MAX_ATTRIBUTES)
    frozen: bool | None = Field(None, description="true makes it immutable for ever")


class NewSize(Body):
    """A size; a smaller one loses what lies behind it and must be asked for."""

    size: Size
    shrink: bool = False


class Deletion(Body):
    """Fisks that go; with ``force`` their workers are stopped first."""

    refs: list[Ref] = Field(min_length=1, max_length=limits.MAX_GROUP)
    force: bool = False


@router.operation("GET", "/fisks", rule="fisks:list", role=READER, gives=FiskPage)
def list_fisks(
    services: Given,
    role: RoleQuery = None,
    state: Annotated[Literal["live", "frozen", "building"] | None, Query()] = None,
    pool: NameQuery = None,
    name: Annotated[
        str | None, Query(min_length=1, max_length=limits.MAX_NAME, description="a pattern like web-*")
    ] = None,
    attribute: Annotated[
        list[Annotated[str, Field(max_length=limits.MAX_KEY + 1 + limits.MAX_NAME)]] | None,
        Query(max_length=16, description="key=value; all must match", examples=[["tenant=a"]]),
    ] = None,
    limit: PageSize = None,
    marker: IdQuery = None,
) -> FiskPage:
    """List Fisks, oldest first, a page at a time.

    ``marker`` is the id of the last Fisk of the page before; that Fisk may be gone meanwhile only if another
    page is begun anew.
    """
    most = page_size(services, limit)
    wanted = listing.Wanted(role, state, pool, name, dict(map(_pair, attribute or ())))
    with services.engine.catalog.read() as conn:
        found = listing.page(conn, wanted, most + 1, marker)
    more = len(found) > most
    return FiskPage(found[:most], found[most - 1].id if more else None)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidValue(f"attribute: '{text}' is not key=value")
    return key, value


@router.operation("POST", "/fisks", rule="fisks:create", role=OPERATOR, gives=Fisk, status=201, may=_CHANGES)
def create_fisk(services: Given, new: NewFisk) -> Fisk:
    """Make an empty live Fisk; it takes space from its first write on."""
    options = new.model_dump(exclude={"name", "size"})
    return services.engine.create(new.name, new.size, **options)


@router.operation("GET", "/fisks/{ref}", rule="fisks:get", role=READER, gives=Fisk, may=_MISSING)
def get_fisk(services: Given, ref: RefInPath) -> Fisk:
    """Show a Fisk."""
    return services.engine.get(ref)


@router.operation("PATCH", "/fisks/{ref}", rule="fisks:change", role=OPERATOR, gives=Fisk, may=_CHANGES)
def change_fisk(services: Given, ref: RefInPath, changes: FiskChanges) -> Fisk:
    """Change the name, role or attributes of a Fisk, or freeze it for ever."""
    return services.engine.set(ref, **changes.model_dump())


@router.operation("DELETE", "/fisks/{ref}", rule="fisks:delete", role=OPERATOR, may=(errors.InUse,))
def delete_fisk(services: Given, ref: RefInPath, force: Annotated[bool, Query()] = False) -> None:
    """Delete a Fisk; one that does not exist is deleted already.

    Any Fisk can be deleted, whatever was made from it.  One that is attached needs ``force``.
    """
    _delete(services, [ref], force)


@router.operation("POST", "/deletions", rule="fisks:delete", role=OPERATOR, may=(errors.InUse,))
def delete_fisks(services: Given, deletion: Deletion) -> None:
    """Delete several Fisks at once, all or none; those that do not exist are deleted already."""
    _delete(services, deletion.refs, deletion.force)


def _delete(services: Given, refs: list[str], force: bool) -> None:
    while True:
        with services.engine.catalog.read() as conn:
            present = listing.present(conn, refs)
        if not present:
            return
        try:
            services.engine.delete(*present, force=force)
        except NotFound:  # somebody else deleted one meanwhile
            continue


@router.operation("POST", "/fisks/{ref}/resize", rule="fisks:resize", role=OPERATOR, gives=Fisk, may=_CHANGES)
def resize_fisk(services: Given, ref: RefInPath, new: NewSize) -> Fisk:
    """Set the size of a live Fisk, attached or not."""
    return services.supervisor.resize(ref, new.size, shrink=new.shrink)

# SPDX-License-Identifier: Apache-2.0
"""Snapshots, clones, and going back to one."""

from dataclasses import dataclass
from uuid import uuid4

from pydantic import Field

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import OPERATOR
from fisk_core.api.models import Attributes, Body, Creation, Name, Ref, RefInPath, RoleLabel, Size
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import Fisk, Role

router = Operations("copies")

_ERRORS = (errors.NotFound, errors.AlreadyExists, errors.InUse, errors.NoSpace)


class NewSnapshot(Creation):
    """A name for what a Fisk holds at this moment."""

    name: Name
    role: RoleLabel = Role.SNAPSHOT.value
    attributes: Attributes | None = None


class Member(Creation):
    """One Fisk of a group, and what its snapshot is called."""

    fisk: Ref
    name: Name
    attributes: Attributes | None = None


class NewGroup(Body):
    """Snapshots of several Fisks at one point in time."""

    snapshots: list[Member] = Field(min_length=1, max_length=limits.MAX_GROUP)
    role: RoleLabel = Role.SNAPSHOT.value


@dataclass(frozen=True, slots=True)
class Made:
    """The Fisks that were made, in the order of the request."""

    fisks: list[Fisk]


class NewClones(Creation):
    """Live Fisks that begin with what another holds; several are called ``name-1`` to ``name-count``."""

    name: Name
    count: int = Field(1, ge=1, le=limits.MAX_CLONES)
    role: RoleLabel = Role.VOLUME.value
    size: Size | None = None
    attributes: Attributes | None = None


class Source(Body):
    """Where to go back to."""

    to: Ref


@router.operation(
    "POST",
    "/fisks/{ref}/snapshots",
    rule="snapshots:create",
    role=OPERATOR,
    gives=Fisk,
    status=201,
    may=_ERRORS,
)
def create_snapshot(services: Given, ref: RefInPath, new: NewSnapshot) -> Fisk:
    """Take a snapshot of a Fisk, attached or not."""
    return services.engine.snapshot(ref, new.name, role=new.role, attributes=new.attributes, id=new.id)


@router.operation(
    "POST", "/snapshots", rule="snapshots:create", role=OPERATOR, gives=Made, status=201, may=_ERRORS
)
def create_group_snapshot(services: Given, new: NewGroup) -> Made:
    """Take snapshots of several Fisks at one point in time: all of them or none."""
    made = services.engine.group_snapshot(
        [(each.fisk, each.name) for each in new.snapshots],
        role=new.role,
        attributes=[each.attributes for each in new.snapshots],
        ids=[each.id or str(uuid4()) for each in new.snapshots],
    )
    return Made(made)


@router.operation(
    "POST", "/fisks/{ref}/clones", rule="clones:create", role=OPERATOR, gives=Made, status=201, may=_ERRORS
)
def create_clones(services: Given, ref: RefInPath, new: NewClones) -> Made:
    """Clone a Fisk, once or many times; one transaction, no I/O."""
    return Made(services.engine.clone(ref, **new.model_dump()))


@router.operation(
    "POST",
    "/fisks/{ref}/revert",
    rule="fisks:revert",
    role=OPERATOR,
    gives=Fisk,
    may=(errors.NotFound, errors.InUse, errors.NoSpace),
)
def revert_fisk(services: Given, ref: RefInPath, source: Source) -> Fisk:
    """Give a live Fisk the content and size of another; what it held is gone unless a snapshot has it."""
    return services.engine.revert(ref, source.to)

# SPDX-License-Identifier: Apache-2.0
"""Builds: Fisks that are written by NBD before anybody sees them."""

from pydantic import Field

from fisk_core import errors
from fisk_core.api.identity import OPERATOR
from fisk_core.api.models import Attributes, Body, Creation, IdInPath, Name, RoleLabel, Size
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Fisk, Role
from fisk_core.supervision import Build

router = Operations("builds")


class NewBuild(Creation):
    """A hidden Fisk; give a generous size where it is not known yet: holes cost nothing."""

    name: Name
    size: Size
    pool: Name | None = None
    role: RoleLabel = Role.IMAGE.value
    attributes: Attributes | None = None
    block_size: int = Field(BLOCK_SIZE, ge=512, le=1 << 30, description="a power of two")
    page_size: int = Field(PAGE_SIZE, ge=512, le=1 << 30, description="a power of two")


class Finish(Body):
    """The true size, whether the Fisk is frozen for ever, and attributes to add."""

    size: Size
    frozen: bool
    attributes: Attributes | None = None


@router.operation(
    "POST",
    "/builds",
    rule="builds:create",
    role=OPERATOR,
    gives=Build,
    status=201,
    may=(errors.NotFound, errors.AlreadyExists, errors.InUse, errors.NoSpace),
)
def begin_build(services: Given, new: NewBuild) -> Build:
    """Begin a Fisk that is written by NBD and shown when it is finished."""
    options = new.model_dump(exclude={"name"})
    return services.supervisor.begin_build(new.name, **options)


@router.operation(
    "POST",
    "/builds/{id}/finish",
    rule="builds:create",
    role=OPERATOR,
    gives=Fisk,
    may=(errors.NotFound, errors.InUse, errors.NoSpace),
)
def finish_build(services: Given, id: IdInPath, finish: Finish) -> Fisk:
    """Make a build durable and show it."""
    return services.supervisor.finish_build(id, **finish.model_dump())


@router.operation("DELETE", "/builds/{id}", rule="builds:create", role=OPERATOR, may=(errors.InUse,))
def abort_build(services: Given, id: IdInPath) -> None:
    """Abort a build, leaving no trace; one that is gone is fine."""
    services.supervisor.abort_build(id)

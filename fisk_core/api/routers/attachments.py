# SPDX-License-Identifier: Apache-2.0
"""Attachments: Fisks in use on this host, and the workers that serve them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from pydantic import Field

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import ADMIN, OPERATOR, READER
from fisk_core.api.models import NAME, Body, Creation, IdInPath, Options, Ref, RefInPath, Text
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import Attachment

router = Operations("attachments")

_ERRORS = (
    errors.NotFound,
    errors.InUse,
    errors.ReadOnly,
    errors.AlreadyExists,
    errors.NoSpace,
    errors.Unsupported,
    errors.MissingTool,
)


@dataclass(frozen=True, slots=True)
class AttachmentList:
    """Attachments, oldest first."""

    attachments: list[Attachment]


class NewAttachment(Creation):
    """How a Fisk shall be reached from this host, and by whom.

    ``steal`` takes the Fisk over from another host, whose writer is fenced first.  ``incoming`` is for a
    guest that moves to this host while another one writes: what is served here waits for its turn.
    """

    read_only: bool = False
    access: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", examples=["nbd"])] = "nbd"
    consumer: Text = ""
    steal: bool = False
    incoming: bool = False
    options: Options | None = None


class Upgrade(Body):
    """Whose worker; without ``ref``, all of this host."""

    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class Upgraded:
    """How many workers were handed over."""

    upgraded: int


@router.operation(
    "POST",
    "/fisks/{ref}/attachments",
    rule="attachments:create",
    role=OPERATOR,
    gives=Attachment,
    status=201,
    may=_ERRORS,
)
def create_attachment(services: Given, ref: RefInPath, new: NewAttachment) -> Attachment:
    """Attach a Fisk to this host: start or find its worker, and say every way to reach it from here."""
    return services.supervisor.attach(ref, **new.model_dump())


@router.operation(
    "GET",
    "/attachments",
    rule="attachments:list",
    role=READER,
    gives=AttachmentList,
    may=(errors.NotFound,),
)
def list_attachments(
    services: Given,
    fisk: Annotated[str | None, Query(pattern=NAME, max_length=limits.MAX_REF)] = None,
    host: Annotated[str | None, Query(max_length=limits.MAX_NAME)] = None,
) -> AttachmentList:
    """List the attachments of all hosts."""
    return AttachmentList(services.supervisor.attachments(fisk=fisk, host=host))


@router.operation(
    "GET",
    "/attachments/{id}",
    rule="attachments:list",
    role=READER,
    gives=Attachment,
    may=(errors.NotFound,),
)
def get_attachment(services: Given, id: IdInPath) -> Attachment:
    """Show an attachment."""
    return services.supervisor.attachment(id)


@router.operation(
    "POST",
    "/attachments/{id}/promote",
    rule="attachments:create",
    role=OPERATOR,
    gives=Attachment,
    may=(errors.NotFound, errors.InUse, errors.NoSpace),
)
def promote_attachment(services: Given, id: IdInPath) -> Attachment:
    """Have an attachment that waits for its turn write now; one that writes already is fine."""
    return services.supervisor.promote(id)


@router.operation(
    "DELETE",
    "/attachments/{id}",
    rule="attachments:delete",
    role=OPERATOR,
    may=(errors.InUse, errors.Unsupported),
)
def delete_attachment(services: Given, id: IdInPath, force: Annotated[bool, Query()] = False) -> None:
    """Detach: end this use of a Fisk; one that is ended already is fine."""
    services.supervisor.detach(id, force=force)


@router.operation(
    "POST",
    "/upgrades",
    rule="workers:upgrade",
    role=ADMIN,
    gives=Upgraded,
    may=(errors.NotFound, errors.InUse),
)
def upgrade_workers(services: Given, upgrade: Upgrade) -> Upgraded:
    """Hand the workers of this host over to fresh ones, without ending a connection."""
    return Upgraded(services.supervisor.upgrade(upgrade.ref))

# SPDX-License-Identifier: Apache-2.0
"""What clients may send, in types that several operations share.

Nothing is converted: a number is a number and text is text.  Fields that no model knows are refused.
"""

import json
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fisk_core.api import limits
from fisk_core.model import MAX_SIZE

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,254}$"
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_ROLE = r"^[a-z][a-z0-9_.-]{0,63}$"

Name = Annotated[str, StringConstraints(pattern=NAME, max_length=limits.MAX_NAME)]
Id = Annotated[str, StringConstraints(pattern=_UUID, max_length=36)]
Ref = Annotated[str, StringConstraints(pattern=NAME, max_length=limits.MAX_REF)]
RoleLabel = Annotated[str, StringConstraints(pattern=_ROLE, max_length=limits.MAX_ROLE)]
Size = Annotated[int, Field(ge=512, le=MAX_SIZE, multiple_of=512, description="bytes")]
Offset = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=limits.MAX_KEY)]
Value = Annotated[str, StringConstraints(max_length=limits.MAX_VALUE)]
Attributes = Annotated[dict[Key, Value], Field(max_length=limits.MAX_ATTRIBUTES)]
Text = Annotated[str, StringConstraints(max_length=limits.MAX_NAME)]

RefInPath = Annotated[
    str, Path(pattern=NAME, max_length=limits.MAX_REF, description="a name or an id", examples=["web-1"])
]
IdInPath = Annotated[str, Path(pattern=_UUID, max_length=36)]
NameInPath = Annotated[str, Path(pattern=NAME, max_length=limits.MAX_NAME)]
NameQuery = Annotated[str | None, Query(pattern=NAME, max_length=limits.MAX_NAME)]
IdQuery = Annotated[str | None, Query(pattern=_UUID, max_length=36)]
RoleQuery = Annotated[str | None, Query(pattern=_ROLE, max_length=limits.MAX_ROLE)]
PageSize = Annotated[int | None, Query(ge=1, le=limits.MAX_PAGE, description="objects in the answer")]
OffsetQuery = Annotated[int, Query(ge=0, le=MAX_SIZE, description="bytes")]


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Take what can be written as JSON again: no lone surrogates, no NaN, and not too deep."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    return value


Options = Annotated[dict[Key, Any], Field(max_length=64), AfterValidator(plain)]


def moment(value: object) -> object:
    """Let nothing but text be read as a time: seconds since whenever are not RFC 3339."""
    if value is not None and not isinstance(value, str):
        raise ValueError("a time is text, RFC 3339")
    return value


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Creation(Body):
    """What all that is created may bring along: an id chosen by the caller makes a repetition harmless."""

    id: Id | None = None

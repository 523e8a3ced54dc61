# SPDX-License-Identifier: Apache-2.0
"""Errors as RFC 9457 problem documents.

``type`` is ``urn:fisk:error:`` and the name of a class of ``fisk_core.errors`` in kebab-case: clients raise
that class again.  ``instance`` is the id of the request, which the daemon's log has in every line.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fisk_core import errors
from fisk_core.api.request import request_id
from fisk_core.errors import FiskError
from fisk_core.problem import document

LOG = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_DETAILS = 10
_KINDS: Mapping[int, type[FiskError]] = {
    400: errors.InvalidValue,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.Unsupported,
    408: errors.InvalidValue,
    413: errors.LimitExceeded,
    429: errors.Overloaded,
}


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(pattern=r"^urn:fisk:error:[a-z-]+$", examples=["urn:fisk:error:not-found"])
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str = Field(description="the id of the request")


def body_of(error: FiskError, status: int | None = None) -> bytes:
    """Give the document of an error; ``status`` is that of its class unless given."""
    told = {**document(error), "instance": request_id()}
    if status is not None:
        told["status"] = status
    return json.dumps(told).encode()


def answer(error: FiskError, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """Give the response that tells of an error."""
    more = dict(headers or {})
    if isinstance(error, errors.Unauthenticated):
        more["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.Overloaded):
        more["Retry-After"] = "1"
    return Response(body_of(error, status), status or error.http_status, more, MEDIA_TYPE)


async def of_fisk_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, FiskError)
    if exc.http_status >= 500:
        LOG.warning("%s: %s", type(exc).__name__, exc)
    return answer(exc)


async def of_bug(_: Request, exc: Exception) -> Response:
    """What nobody expected; the gate logs it."""
    return answer(FiskError("an internal error; the log has more"))


async def of_http_error(request: Request, exc: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method."""
    assert isinstance(exc, HTTPException)
    kind = _KINDS.get(exc.status_code, FiskError)
    detail = f"{request.method} {request.url.path}: {exc.detail}"
    return answer(kind(detail), exc.status_code, exc.headers)


async def of_invalid_request(_: Request, exc: Exception) -> Response:
    """A request that its model does not allow."""
    assert isinstance(exc, RequestValidationError)
    told = [_complaint(each) for each in exc.errors()[:_MOST_DETAILS]]
    return answer(errors.InvalidValue("; ".join(told) or "the request makes no sense"))


def _complaint(error: Mapping[str, Any]) -> str:
    place: Sequence[Any] = error.get("loc", ())
    where = ".".join(str(each) for each in place[1:]) or str(place[0] if place else "request")
    return f"{where}: {error.get('msg', 'invalid')}"

# SPDX-License-Identifier: Apache-2.0
"""Operations: routes with a policy rule, a role that may use them by default, and the errors they may answer.

A handler is a plain function that runs in a thread and gives a value of the type it names; that type, mostly
a dataclass of ``fisk_core.model``, is also the schema in the OpenAPI document.  It is turned into JSON in the
handler's thread, so that the event loop only moves bytes.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from fisk_core import errors
from fisk_core.api.services import services_of
from fisk_core.errors import FiskError

F = TypeVar("F", bound=Callable[..., Any])

RULE, ROLE, ERRORS = "x-fisk-policy", "x-fisk-role", "x-fisk-errors"
COMMON: Sequence[type[FiskError]] = (
    errors.InvalidValue,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.LimitExceeded,
    errors.Overloaded,
    FiskError,
)
"""what any operation may answer"""


class _EventStream(Response):
    media_type = "text/event-stream"


_OfType = {"text/plain": PlainTextResponse, "text/event-stream": _EventStream}


class Route(APIRoute):
    """A route whose policy is asked before anything of the request is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        extra = self.openapi_extra or {}
        rule, public = extra[RULE], not extra[ROLE]
        fields = self.dependant.query_params
        known = {field.alias: _takes_several(field.field_info.annotation) for field in fields}

        async def checked(request: Request) -> Response:
            if not public:
                services_of(request).guard.require(request.scope["fisk.caller"], rule)
            if request.scope["query_string"]:
                _check_query(request.query_params, known)
            return await handle(request)

        return checked


def _takes_several(kind: Any) -> bool:
    return get_origin(kind) is list or any(map(_takes_several, get_args(kind)))


def _check_query(given: QueryParams, known: Mapping[str, bool]) -> None:
    """Refuse parameters that there are not, and repeated ones where only one counts: they are mistakes."""
    for name in given:
        if name not in known:
            raise errors.InvalidValue(f"there is no parameter '{name}' here")
        if not known[name] and len(given.getlist(name)) > 1:
            raise errors.InvalidValue(f"the parameter '{name}' is there more than once")


class Operations(APIRouter):
    """The operations on one noun."""

    def __init__(self, noun: str) -> None:
        super().__init__(tags=[noun], route_class=Route)

    def operation(
        self,
        method: str,
        path: str,
        *,
        rule: str,
        role: str,
        gives: Any = None,
        status: int = 200,
        may: Sequence[type[FiskError]] = (),
        media: str | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated handler; without ``gives`` it answers 204, with ``media`` not in JSON."""
        extra = {RULE: rule, ROLE: role, ERRORS: [kind.__name__ for kind in (*COMMON, *may)]}

        def register(handler: F) -> F:
            summary, _, rest = (handler.__doc__ or "").partition("\n")
            self.add_api_route(
                path,
                _answering(handler, gives, status),
                methods=[method],
                response_model=gives,
                status_code=status if gives is not None else 204,
                operation_id=handler.__name__,
                summary=summary.rstrip("."),
                description="\n".join(map(str.strip, rest.splitlines())).strip(),
                openapi_extra=extra,
                response_class=_OfType[media] if media else JSONResponse,
            )
            return handler

        return register


def json_of(kind: Any, value: Any, status: int = 200) -> Response:
    """Give the response that a handler of its own kind answers with."""
    return Response(_adapter(kind).dump_json(value), status, media_type="application/json")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _answering(handler: Callable[..., Any], gives: Any, status: int) -> Callable[..., Any]:
    """Wrap a handler so that it answers JSON of the type it gives."""
    if inspect.iscoroutinefunction(handler):  # it answers by itself
        return handler
    if gives is None:

        @functools.wraps(handler)
        def done(*args: Any, **options: Any) -> Response:
            handler(*args, **options)
            return Response(status_code=204)

        return done

    @functools.wraps(handler)
    def answering(*args: Any, **options: Any) -> Response:
        result = handler(*args, **options)
        return result if isinstance(result, Response) else json_of(gives, result, status)

    return answering

# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers, as our own values: dataclasses of the model, and typed errors.

Fields we do not know are ignored (a newer daemon may have them); one that is missing is a ProtocolError.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fisk_core.errors import (
    FiskError,
    Forbidden,
    InvalidValue,
    LimitExceeded,
    NotFound,
    Overloaded,
    ProtocolError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from fisk_core.problem import PREFIX, error_of

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")

_BY_STATUS: Mapping[int, type[FiskError]] = {
    400: InvalidValue,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: Unsupported,
    413: LimitExceeded,
    422: InvalidValue,
    429: Overloaded,
    501: Unsupported,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_of_response(response: "Response", url: str) -> FiskError:
    """Give the error of a problem document, or what the status alone says (something between us spoke)."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict) and str(problem.get("type", "")).startswith(PREFIX):
        return error_of(problem)
    status = response.status_code
    kind = _BY_STATUS.get(status, ProtocolError)
    return kind(f"{url} answered with status {status} {response.reason or ''}".rstrip())


def decode(kind: type[T], value: Any) -> T:
    """Make a ``kind`` (a dataclass of the model) of what JSON gave; raises ProtocolError."""
    try:
        made: T = _decoded(kind, value)
    except (KeyError, TypeError, ValueError) as exc:
        raise ProtocolError(f"the daemon's answer is not a {kind.__name__}: {exc}") from exc
    return made


def decode_all(kind: type[T], values: Iterable[Any]) -> list[T]:
    return [decode(kind, value) for value in values]


@cache
def _shape(kind: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    """Give (name, type, must be there) of the fields of a dataclass."""
    hints = get_type_hints(kind)
    return tuple(
        (each.name, hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
    )


def _decoded(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (each for each in inner if each is not type(None))
        return None if value is None else _decoded(some, value)
    if origin in (list, tuple):
        return origin(_decoded(inner[0], each) for each in value)
    if is_dataclass(kind):
        return kind(**{  # type: ignore[operator]
            name: _decoded(wanted, value[name])
            for name, wanted, needed in _shape(kind)  # type: ignore[arg-type]
            if needed or name in value
        })  # fmt: skip
    if kind is datetime:
        return datetime.fromisoformat(value)
    return kind(value) if isinstance(kind, type) and issubclass(kind, Enum) else value

# SPDX-License-Identifier: Apache-2.0
"""Errors as problem documents (RFC 9457), as a daemon answers them and a failed job has them."""

import re
from collections.abc import Mapping
from typing import Any

from fisk_core.errors import FiskError, by_name

PREFIX = "urn:fisk:error:"
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def document(error: FiskError) -> dict[str, Any]:
    """Give ``type``, ``title``, ``status`` and ``detail`` of an error."""
    kind = type(error)
    public = next(each for each in kind.__mro__ if by_name(each.__name__) is each)
    title = (public.__doc__ or public.__name__).partition("\n")[0].rstrip(".")
    slug = _CAPITAL.sub("-", public.__name__).lower()
    return {"type": PREFIX + slug, "title": title, "status": public.http_status, "detail": str(error)}


def error_of(problem: Mapping[str, Any]) -> FiskError:
    """Give the error that a document describes."""
    slug = str(problem.get("type", "")).removeprefix(PREFIX)
    return by_name("".join(map(str.capitalize, slug.split("-"))))(str(problem.get("detail", "")))

# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: what the framework says, with the problems every operation may answer."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fisk_core import __version__, errors
from fisk_core.api.operation import ERRORS, ROLE
from fisk_core.api.problems import MEDIA_TYPE, Problem

_METHODS = ("get", "put", "post", "delete", "patch")
_UNUSED = ("HTTPValidationError", "ValidationError")
DESCRIPTION = """Disks, volumes, snapshots and images of one host, and who uses them.

Every create takes an id chosen by the caller and may be repeated; every delete may be repeated too.  Errors
are RFC 9457 problem documents.  Data is read and written over NBD, never here."""


def document(app: FastAPI) -> dict[str, Any]:
    """Make the document of an application."""
    found = get_openapi(
        title="Fisk", version=__version__, description=DESCRIPTION, routes=app.routes, license_info=_LICENSE
    )
    parts = found.setdefault("components", {})
    schemas = {key: value for key, value in parts.get("schemas", {}).items() if key not in _UNUSED}
    schemas["Problem"] = Problem.model_json_schema()
    parts["schemas"] = dict(sorted(schemas.items()))
    parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": _SCHEME}}
    for path in found["paths"].values():
        for method in _METHODS:
            if method in path:
                _complete(path[method])
    return found


_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
_SCHEME = "On TCP.  On the unix socket the kernel says who asks."


def _complete(operation: dict[str, Any]) -> None:
    """Add the problems of an operation, and who may use it."""
    responses = operation["responses"]
    responses.pop("422", None)
    by_status: dict[int, list[str]] = {}
    for name in operation[ERRORS]:
        by_status.setdefault(errors.by_name(name).http_status, []).append(name)
    for status, names in sorted(by_status.items()):
        responses.setdefault(str(status), _problem(f"{HTTPStatus(status).phrase}: {', '.join(names)}"))
    responses["default"] = _problem("Any other problem")
    if operation[ROLE]:
        operation["security"] = [{"token": []}]


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}

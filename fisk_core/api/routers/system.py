# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: what it is, whether it works, what it has done."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Header
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fisk_core import __version__, errors
from fisk_core.api import limits
from fisk_core.api.identity import READER
from fisk_core.api.metrics import exposition
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.errors import FiskError

router = Operations("system")
unversioned = Operations("system")


@dataclass(frozen=True, slots=True)
class About:
    """A daemon, who asks it, and what it takes on; see the manual for the limits."""

    version: str
    host: str
    caller: str
    role: str | None
    limits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Health:
    """``problems`` say what is wrong, one line each; there are none when all is well."""

    healthy: bool
    problems: list[str]


@router.operation("GET", "", rule="system:about", role=READER, gives=About)
def about(services: Given, request: Request) -> About:
    """Say what this daemon is, and who asks."""
    caller = request.scope["fisk.caller"]
    fixed = {
        "max_clones": limits.MAX_CLONES,
        "max_group": limits.MAX_GROUP,
        "max_name": limits.MAX_NAME,
        "max_tree": limits.MAX_TREE,
    }
    return About(__version__, services.host, caller.name, caller.role, {**asdict(services.limits), **fixed})


@router.operation("GET", "/openapi.json", rule="system:about", role=READER, gives=dict[str, Any])
def get_openapi(request: Request) -> Response:
    """Give the description of this API."""
    return JSONResponse(request.app.openapi())


@unversioned.operation(
    "GET", "/healthz", rule="system:health", role="", gives=Health, may=(errors.Unavailable,)
)
def get_health(services: Given) -> Response:
    """Say whether catalog and pools answer; anybody may ask."""
    problems = list(_problems(services))
    found = Health(not problems, problems)
    body = TypeAdapter(Health).dump_json(found)
    return Response(body, 503 if problems else 200, media_type="application/json")


def _problems(services: Given) -> list[str]:
    try:
        names = services.engine.pool_names()
    except FiskError as exc:
        return [f"catalog: {exc}"]
    found = []
    for name in names:
        try:
            services.engine.pool(name)
        except FiskError as exc:
            found.append(f"pool {name}: {exc}")
    return found


@unversioned.operation("GET", "/metrics", rule="system:metrics", role=READER, gives=str, media="text/plain")
def get_metrics(
    services: Given, accept: Annotated[str, Header(max_length=1024, include_in_schema=False)] = ""
) -> Response:
    """Give figures of Fisks, pools and jobs, for Prometheus."""
    body, media_type = exposition(services, accept)
    return Response(body, media_type=media_type)

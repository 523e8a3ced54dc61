# SPDX-License-Identifier: Apache-2.0
"""The application: all operations, behind the gate."""

from collections.abc import Iterator
from functools import cache

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from oslo_policy import policy
from starlette.exceptions import HTTPException

from fisk_core import __version__
from fisk_core.api import openapi, problems
from fisk_core.api.operation import ROLE, RULE, Route
from fisk_core.api.policy import documented
from fisk_core.api.routers import (
    attachments,
    builds,
    copies,
    events,
    fisks,
    jobs,
    locks,
    looking,
    placement,
    pools,
    schedules,
    system,
    tokens,
    workers,
)
from fisk_core.api.services import Services
from fisk_core.api.ui import PATH, Page, to_page
from fisk_core.errors import FiskError

_NOUNS = (
    fisks, copies, looking, placement, attachments, builds, locks,
    schedules, jobs, pools, tokens, events, workers,
)  # fmt: skip
PREFIX = "/v1"


def create_app(services: Services | None = None) -> FastAPI:
    """Make the application; without services it only describes itself."""
    app = FastAPI(
        title="Fisk", version=__version__, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.services = services
    for module in (system, *_NOUNS):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(system.unversioned)
    app.add_route(PATH, to_page)
    app.mount(PATH, Page())
    app.add_exception_handler(FiskError, problems.of_fisk_error)
    app.add_exception_handler(HTTPException, problems.of_http_error)
    app.add_exception_handler(RequestValidationError, problems.of_invalid_request)
    app.add_exception_handler(Exception, problems.of_bug)
    described = cache(lambda: openapi.document(app))
    app.openapi = described  # type: ignore[method-assign]
    return app


def operations() -> Iterator[tuple[str, str, str, str, str]]:
    """Give (policy rule, default role, what it does, method, path) of every operation."""
    for module in (system, *_NOUNS):
        yield from _of(module.router.routes, PREFIX)
    yield from _of(system.unversioned.routes, "")


def _of(routes: object, prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    assert isinstance(routes, list)
    for route in routes:
        assert isinstance(route, Route)
        extra = route.openapi_extra or {}
        if extra[ROLE]:
            (method,) = route.methods or ("GET",)
            yield extra[RULE], extra[ROLE], str(route.summary), method, prefix + route.path


def policies() -> list[policy.DocumentedRuleDefault]:
    """Give the default policy, for the daemon and for ``oslopolicy-sample-generator``."""
    return documented(operations())

# SPDX-License-Identifier: Apache-2.0
"""What handlers work with: one object, made by the daemon."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from fisk_core.api.broadcast import Broadcast
from fisk_core.api.identity import Tokens
from fisk_core.api.limits import MAX_WAITERS, Limits
from fisk_core.api.policy import Guard
from fisk_core.engine import Engine

if TYPE_CHECKING:
    from fisk_core.jobs import Runner
    from fisk_core.supervision import Supervisor


@dataclass(slots=True)
class Services:
    """All that a request may need; every part may be used by several threads."""

    engine: Engine
    supervisor: "Supervisor"
    runner: "Runner"
    guard: Guard
    tokens: Tokens
    broadcast: Broadcast
    host: str
    limits: Limits = field(default_factory=Limits)
    high_water: float = 90.0
    """percent of a pool's medium from which on expendable snapshots go"""
    waiters: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_WAITERS))
    """threads of requests that wait for somebody else"""
    waiting: "set[asyncio.Future[None]]" = field(default_factory=set)
    """of these requests: cancelling one ends the wait"""
    started: float = field(default_factory=time.time)


def services_of(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


async def _given(request: Request) -> Services:
    # A coroutine, because the framework gives every plain dependency a thread of its own.
    return services_of(request)


Given = Annotated[Services, Depends(_given)]
"""the type of a handler's argument that is the Services"""

# SPDX-License-Identifier: Apache-2.0
"""Events: what happens, as server-sent events, each once and in order."""

from typing import Annotated

from fastapi import Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fisk_core.api import limits
from fisk_core.api.identity import READER
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given

router = Operations("events")


@router.operation("GET", "/events", rule="events:follow", role=READER, gives=str, media="text/event-stream")
async def follow_events(
    request: Request,
    services: Given,
    after: Annotated[int | None, Query(ge=0, le=limits.MAX_INT, description="a number of an event")] = None,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$", max_length=18)] = None,
) -> Response:
    """Follow what happens from now on, or after an event that was seen.

    The data of each is an event as JSON and its ``id`` the event's number, which a client that comes back
    gives as ``Last-Event-ID``.  Events are kept for a week; a comment every 15 seconds is a sign of life.
    """
    start = int(last_event_id) if last_event_id is not None else after
    stream = services.broadcast.follow(start)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

# SPDX-License-Identifier: Apache-2.0
"""Range locks: clients that share a Fisk agree on who may touch which bytes."""

import asyncio
from dataclasses import dataclass

from anyio import to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fisk_core import errors
from fisk_core.api import limits
from fisk_core.api.identity import OPERATOR, READER
from fisk_core.api.models import Body, Creation, IdInPath, RefInPath, Text
from fisk_core.api.operation import Operations, json_of
from fisk_core.api.services import Given
from fisk_core.catalog.fisks import new_id
from fisk_core.errors import Overloaded
from fisk_core.model import MAX_SIZE, RangeLock
from fisk_core.services import rangelocks

router = Operations("locks")


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks of a Fisk, by offset."""

    locks: list[RangeLock]


class NewLock(Creation):
    """``length`` bytes from ``offset`` for ``ttl`` seconds, waiting up to ``wait`` seconds for them."""

    offset: int = Field(ge=0, le=MAX_SIZE)
    length: int = Field(ge=1, le=MAX_SIZE)
    shared: bool = False
    owner: Text = ""
    ttl: float = Field(30.0, gt=0, le=rangelocks.MAX_TTL)
    wait: float = Field(0.0, ge=0, le=limits.MAX_WAIT)


class Renewal(Body):
    """How many seconds from now a lock lasts."""

    ttl: float = Field(30.0, gt=0, le=rangelocks.MAX_TTL)


@router.operation(
    "POST",
    "/fisks/{ref}/locks",
    rule="locks:acquire",
    role=OPERATOR,
    gives=RangeLock,
    status=201,
    may=(errors.NotFound, errors.InUse, errors.AlreadyExists),
)
async def acquire_lock(request: Request, services: Given, ref: RefInPath, new: NewLock) -> Response:
    """Lock a byte range, waiting for it if asked to; nothing enforces it.

    Who hangs up does not wait any more.  The same id again gives the lock acquired before, with its time
    beginning anew.
    """

    wanted = new.model_copy(update={"id": new.id or new_id()})

    def acquire() -> Response:
        lock = rangelocks.acquire(services.engine, ref, **wanted.model_dump())
        return json_of(RangeLock, lock, 201)

    if not new.wait:
        return await to_thread.run_sync(acquire)
    # Those who wait have threads of their own, so that nobody else waits because of them.
    if not services.waiters.available_tokens:
        raise Overloaded(f"{limits.MAX_WAITERS} requests wait for locks already")
    work = asyncio.ensure_future(to_thread.run_sync(acquire, limiter=services.waiters))
    gone = asyncio.ensure_future(_is_gone(request))
    services.waiting.add(gone)
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await to_thread.run_sync(rangelocks.release, services.engine, str(wanted.id))
        return await work
    finally:
        services.waiting.discard(gone)
        gone.cancel()


async def _is_gone(request: Request) -> None:
    """Return when the client does not wait for the answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.operation(
    "GET", "/fisks/{ref}/locks", rule="locks:list", role=READER, gives=Locks, may=(errors.NotFound,)
)
def list_locks(services: Given, ref: RefInPath) -> Locks:
    """List the locks of a Fisk."""
    return Locks(rangelocks.held(services.engine, ref))


@router.operation(
    "PUT", "/locks/{id}", rule="locks:acquire", role=OPERATOR, gives=RangeLock, may=(errors.NotFound,)
)
def renew_lock(services: Given, id: IdInPath, renewal: Renewal) -> RangeLock:
    """Let a lock last some seconds from now; one that is over may be somebody else's."""
    return rangelocks.renew(services.engine, id, renewal.ttl)


@router.operation("DELETE", "/locks/{id}", rule="locks:release", role=OPERATOR)
def release_lock(services: Given, id: IdInPath) -> None:
    """End a lock, or withdraw the request for one; one that is over is ended already."""
    rangelocks.release(services.engine, id)

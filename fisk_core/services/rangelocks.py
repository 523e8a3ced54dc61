# SPDX-License-Identifier: Apache-2.0
"""Range locks: clients that share a Fisk agree on who may touch which bytes; nothing enforces it.

A lock is known by its id and ends when it is released, when its time is over, or with its Fisk.  Two locks
that overlap are both shared.  ``owner`` is a label for people: locks of one owner exclude each other too.

Who waits stands in a queue, in the catalog, so that hosts and processes share it.  A request is granted when
nothing *before it* is in its way: no lock held, and no request that came earlier, overlaps it, unless both
are shared.  So a stream of shared locks does not starve one who waits for an exclusive lock, and those whose
ranges have nothing to do with each other do not wait for each other.  A waiting request keeps itself alive;
one whose process died is passed over ten seconds later.

Time is the catalog's (``catalog.database.clock``): the database server's, so hosts' clocks do not matter.  A
lock whose time is over is gone, even if nobody took its place: who renews it in vain knows that it may have
been somebody else's meanwhile.

There is no detection of deadlocks; waiting ends after ``wait`` seconds.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from fisk_core.catalog import fisks
from fisk_core.catalog import rangelocks as rows
from fisk_core.catalog.database import clock, version
from fisk_core.catalog.rangelocks import Claim
from fisk_core.errors import AlreadyExists, InUse, InvalidValue, LimitExceeded, NotFound
from fisk_core.model import MAX_SIZE, RangeLock

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

MAX_LOCKS = 1024
"""Locks and waiting requests of one Fisk."""
MAX_TTL = 3600.0
MAX_WAIT = 600.0
MAX_OWNER = 255
WAITING_SECONDS = 10.0
"""How long a waiting request stands without a sign of life."""
_RENEW_SECONDS = 3.0
POLL_SECONDS = 0.25
"""How soon another process's release is seen; this one's is seen at once."""


def acquire(
    context: "Context",
    ref: str,
    offset: int,
    length: int,
    *,
    shared: bool = False,
    owner: str = "",
    ttl: float = 30.0,
    wait: float = 0.0,
    id: str | None = None,
) -> RangeLock:
    """Lock ``length`` bytes from ``offset`` for ``ttl`` seconds, waiting up to ``wait`` seconds for them.

    The bytes may lie behind the end of the Fisk.  The same id again gives the lock acquired before, with its
    time beginning anew.  Raises InUse (naming who is in the way), NotFound, InvalidValue, AlreadyExists,
    LimitExceeded.
    """
    _validate(offset, length, owner, ttl, wait)
    lock_id = (id or fisks.new_id()).lower()
    if not fisks.is_id(lock_id):
        raise InvalidValue(f"'{lock_id}' is not an id (a UUID)")
    fisk_id = context.find(ref).id
    wanted = RangeLock(lock_id, fisk_id, offset, length, shared, owner, datetime.now(UTC))
    deadline = time.monotonic() + wait
    granted = _ask(context, wanted, ttl, queue=wait > 0)
    if granted is not None:
        return granted
    try:
        return _wait(context, wanted, ttl, deadline)
    except BaseException:
        with context.catalog.change() as conn:
            rows.withdraw(conn, lock_id)
        raise


def renew(context: "Context", lock_id: str, ttl: float = 30.0) -> RangeLock:
    """Let a lock last ``ttl`` seconds from now.  Raises NotFound when it is over: it may be another's."""
    _validate_ttl(ttl)
    with context.catalog.change() as conn:
        now, claim = clock(conn), rows.try_find(conn, lock_id.lower())
        if claim is None or claim.waiting or _is_over(claim, now):
            raise NotFound(f"there is no lock {lock_id}, or its time is over")
        return _extend(conn, claim.lock, now, ttl)


def release(context: "Context", lock_id: str) -> None:
    """End a lock, or withdraw the request for one; one that is over already is no error."""
    with context.catalog.change() as conn:
        rows.remove(conn, lock_id.lower())


def held(context: "Context", ref: str) -> list[RangeLock]:
    """Give the locks of a Fisk, by offset; raises NotFound."""
    fisk_id = context.find(ref).id
    with context.catalog.read() as conn:
        claims = rows.of(conn, fisk_id, clock(conn))
    found = [claim.lock for claim in claims if not claim.waiting]
    return sorted(found, key=lambda lock: (lock.offset, lock.length, lock.id))


def _validate(offset: int, length: int, owner: str, ttl: float, wait: float) -> None:
    if offset < 0 or length < 1 or offset + length > MAX_SIZE:
        raise InvalidValue(f"{length} bytes from {offset} cannot be locked")
    if len(owner) > MAX_OWNER:
        raise LimitExceeded(f"an owner has at most {MAX_OWNER} characters")
    if not 0 <= wait <= MAX_WAIT:
        raise InvalidValue(f"a lock is waited for at most {MAX_WAIT:.0f} seconds")
    _validate_ttl(ttl)


def _validate_ttl(ttl: float) -> None:
    if not 0 < ttl <= MAX_TTL:
        raise InvalidValue(f"a lock lasts more than 0 and at most {MAX_TTL:.0f} seconds, and is renewed")


def _is_over(claim: Claim, now: datetime) -> bool:
    return claim.lock.expires.replace(tzinfo=None) <= now


def _obstacle(claims: list[Claim], wanted: RangeLock, before: int | None) -> Claim | None:
    """Give what is in the way of a request: a lock, or one who asked before ticket ``before`` (None: all)."""
    for claim in claims:
        if claim.lock.id == wanted.id or (claim.waiting and before is not None and claim.ticket > before):
            continue
        if claim.overlaps(wanted.offset, wanted.length) and not (claim.lock.shared and wanted.shared):
            return claim
    return None


def _ask(context: "Context", wanted: RangeLock, ttl: float, *, queue: bool) -> RangeLock | None:
    """Grant a request, or put it into the queue (None), or raise InUse."""
    with context.catalog.change() as conn:
        fisks.find(conn, wanted.fisk_id)
        now = clock(conn)
        rows.remove_expired(conn, wanted.fisk_id, now)
        known = rows.try_find(conn, wanted.id)
        if known is not None:
            return _again(conn, known, wanted, now, ttl)
        if rows.count(conn, wanted.fisk_id) >= MAX_LOCKS:
            raise LimitExceeded(f"a Fisk can have {MAX_LOCKS} range locks, those waited for included")
        obstacle = _obstacle(rows.of(conn, wanted.fisk_id, now), wanted, None)
        if obstacle is not None and not queue:
            raise _in_use(obstacle)
        lasting = ttl if obstacle is None else WAITING_SECONDS
        lock = replace(wanted, expires=(now + timedelta(seconds=lasting)).replace(tzinfo=UTC))
        rows.add(conn, lock, waiting=obstacle is not None, ticket=version(conn))
        return lock if obstacle is None else None


def _again(conn: Connection, known: Claim, wanted: RangeLock, now: datetime, ttl: float) -> RangeLock | None:
    """The same request once more: its answer was lost, or is still waited for by another thread."""
    if replace(known.lock, expires=wanted.expires) != wanted:
        raise AlreadyExists(f"there is another lock with id {wanted.id} already")
    return None if known.waiting else _extend(conn, known.lock, now, ttl)


def _extend(conn: Connection, lock: RangeLock, now: datetime, ttl: float) -> RangeLock:
    expires = now + timedelta(seconds=ttl)
    rows.change(conn, lock.id, expires=expires)
    return replace(lock, expires=expires.replace(tzinfo=UTC))


def _in_use(obstacle: Claim) -> InUse:
    lock = obstacle.lock
    state = "wanted earlier" if obstacle.waiting else "locked"
    return InUse(
        f"bytes {lock.offset} to {lock.offset + lock.length} are {state} by '{lock.owner}' ({lock.id})"
    )


def _wait(context: "Context", wanted: RangeLock, ttl: float, deadline: float) -> RangeLock:
    """Stand in the queue until granted; raises InUse at the deadline."""
    changes, renewed = context.catalog.changes, time.monotonic()
    while True:
        seen = changes.count
        obstacle = _look(context, wanted)
        if obstacle is None or time.monotonic() - renewed > _RENEW_SECONDS:
            granted = _step(context, wanted, ttl)
            if granted is not None:
                return granted
            renewed = time.monotonic()
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            raise _in_use(obstacle)
        changes.wait(seen, min(left, POLL_SECONDS))


def _look(context: "Context", wanted: RangeLock) -> Claim | None:
    """Give what is in the way, None if nothing is or our place is lost: ``_step`` finds out which."""
    with context.catalog.read() as conn:
        claims = rows.of(conn, wanted.fisk_id, clock(conn))
    mine = next((claim for claim in claims if claim.lock.id == wanted.id), None)
    return None if mine is None else _obstacle(claims, wanted, mine.ticket)


def _step(context: "Context", wanted: RangeLock, ttl: float) -> RangeLock | None:
    """Take the lock if it is our turn, else tell that we still wait.

    Raises NotFound when the Fisk is gone, InUse when the request was withdrawn or slept for too long.
    """
    with context.catalog.change() as conn:
        now = clock(conn)
        fisks.find(conn, wanted.fisk_id)
        claims = rows.of(conn, wanted.fisk_id, now)
        mine = next((claim for claim in claims if claim.lock.id == wanted.id), None)
        if mine is None:
            raise InUse(
                f"the request for lock {wanted.id} was withdrawn, or its process stood still too long"
            )
        if _obstacle(claims, wanted, mine.ticket) is None:
            rows.change(conn, wanted.id, waiting=False)
            return _extend(conn, mine.lock, now, ttl)
        rows.change(conn, wanted.id, expires=now + timedelta(seconds=WAITING_SECONDS))
        return None

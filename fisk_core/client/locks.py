# SPDX-License-Identifier: Apache-2.0
"""Range locks: acquired, renewed and released, and held for the length of a block."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from fisk_core.client.answers import decode, decode_all
from fisk_core.client.transport import Transport
from fisk_core.errors import FiskError, InUse, NotFound, Unavailable
from fisk_core.model import RangeLock

LOG = logging.getLogger(__name__)

TTL = 30.0
_WAIT_AT_ONCE = 25.0  # one request waits no longer, so that a dead connection is noticed
Locks = list[RangeLock]


class HeldLock:
    """A lock that is renewed in the background until released; ``check`` says whether it still holds."""

    def __init__(self, locks: "RemoteLocks", lock: RangeLock, ttl: float) -> None:
        self._locks, self.lock, self._ttl = locks, lock, ttl
        self._until = time.monotonic() + ttl
        self._ending = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name=f"fisk-lock-{lock.id[:8]}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """It may be somebody else's now."""
        return self._lost or time.monotonic() >= self._until

    def check(self) -> None:
        """Raise InUse when the lock is not ours any more."""
        if self.lost:
            raise InUse(
                f"the lock {self.lock.id} was lost: it was not renewed in time, or somebody released it"
            )

    def _renew(self) -> None:
        while not self._ending.wait(self._ttl / 3):
            asked = time.monotonic()
            try:
                self.lock = self._locks.renew(self.lock.id, ttl=self._ttl)
            except (NotFound, InUse):
                self._lost = True
                return
            except FiskError as exc:
                LOG.info("lock %s could not be renewed now: %s", self.lock.id, exc)
                continue
            self._until = asked + self._ttl

    def release(self) -> None:
        self._ending.set()
        self._thread.join()
        self._locks.release(self.lock.id)


class RemoteLocks:
    """Range locks of Fisks behind a daemon."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def acquire(
        self,
        ref: str,
        offset: int,
        length: int,
        *,
        shared: bool = False,
        owner: str = "",
        ttl: float = TTL,
        wait: float = 0.0,
        id: str | None = None,
    ) -> RangeLock:
        """Lock ``length`` bytes from ``offset``, waiting up to ``wait`` seconds for them.

        It ends after ``ttl`` seconds unless renewed.  Raises InUse, NotFound, InvalidValue.
        """
        body: dict[str, Any] = {"offset": offset, "length": length, "shared": shared, "owner": owner}
        body |= {"ttl": ttl, "id": id or str(uuid4())}
        deadline = time.monotonic() + wait
        while True:
            now = max(0.0, min(_WAIT_AT_ONCE, deadline - time.monotonic()))
            path = f"/fisks/{quote(ref, safe='')}/locks"
            try:
                found = self._transport.call(
                    "POST", path, json={**body, "wait": now}, again=True, seconds=now
                )
                return decode(RangeLock, found)
            except InUse:
                if time.monotonic() >= deadline:
                    raise

    def list(self, ref: str) -> Locks:
        return decode_all(
            RangeLock, self._transport.call("GET", f"/fisks/{quote(ref, safe='')}/locks")["locks"]
        )

    def renew(self, id: str, *, ttl: float = TTL) -> RangeLock:
        """Let it last ``ttl`` seconds from now; raises NotFound when it has ended."""
        found = self._transport.call("PUT", f"/locks/{quote(id, safe='')}", json={"ttl": ttl}, again=True)
        return decode(RangeLock, found)

    def release(self, id: str) -> None:
        """End a lock; one that has ended is fine."""
        self._transport.call("DELETE", f"/locks/{quote(id, safe='')}")

    @contextmanager
    def held(
        self, ref: str, offset: int, length: int, *, ttl: float = TTL, **options: Any
    ) -> Iterator[HeldLock]:
        """Hold a lock, renewed in the background, until the end of the block.

        Raises InUse at the end of a block during which it was lost, unless something else went wrong.
        """
        held = HeldLock(self, self.acquire(ref, offset, length, ttl=ttl, **options), ttl)
        try:
            yield held
            held.check()
        finally:
            try:
                held.release()
            except Unavailable as exc:
                LOG.info("lock %s is left to end by itself: %s", held.lock.id, exc)

# SPDX-License-Identifier: Apache-2.0
"""Guests that hold still while a snapshot is taken, and for no longer than that.

Nova's driver knows how a guest is made quiet, the disk knows when: the one says it here, the other asks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Way = Callable[[], AbstractContextManager[None]]
_way: ContextVar[Way] = ContextVar("way", default=nullcontext)


@contextmanager
def by(way: Way) -> Iterator[None]:
    """Have snapshots within the block taken while ``way()`` holds the guest still."""
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


def guest() -> AbstractContextManager[None]:
    """Hold the guest still, if somebody said how."""
    return _way.get()()

# SPDX-License-Identifier: Apache-2.0
"""Which snapshots of a schedule stay.

A snapshot stays when at least one of these says so; what none keeps goes:

``last = n``
    it is one of the *n* newest;
``hourly = n``
    it is the newest of its hour (UTC), and its hour is one of the *n* latest that have a snapshot;
``daily = n``, ``weekly = n``
    the same with days (UTC) and weeks (ISO 8601, from Monday).

With all four 0 everything stays.  Hours without a snapshot do not count: a machine that was off for a week
does not lose what it had before.  What was removed once would not have been kept later either, so it makes no
difference how often this is applied.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from fisk_core.model import Retention

_PERIODS: tuple[tuple[str, Callable[[datetime], Any]], ...] = (
    ("hourly", lambda at: (at.date(), at.hour)),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: at.isocalendar()[:2]),
)


def superfluous(times: Sequence[datetime], retention: Retention) -> list[int]:
    """Give the indices of those of ``times`` (UTC, in any order) that ``retention`` does not keep."""
    if retention == Retention():
        return []
    newest_first = sorted(range(len(times)), key=lambda index: (times[index], index), reverse=True)
    kept = set(newest_first[: retention.last])
    for name, period_of in _PERIODS:
        newest: dict[Any, int] = {}
        for index in newest_first:
            newest.setdefault(period_of(times[index]), index)
        kept.update(list(newest.values())[: getattr(retention, name)])
    return [index for index in range(len(times)) if index not in kept]

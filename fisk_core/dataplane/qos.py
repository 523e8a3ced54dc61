# SPDX-License-Identifier: Apache-2.0
"""How much a served Fisk may do: limits as its attributes say them, and the token buckets that keep them.

``qos.KIND_UNIT = n`` allows n a second, KIND being ``read``, ``write`` or ``total`` and UNIT ``iops``
(requests) or ``bytes``.  ``qos.KIND_UNIT_burst`` is the size of that bucket: what may be done at once after a
pause.  Nothing here knows the time or a connection; both are told.

A request passes when every bucket it draws from holds what it takes.  One that takes more than a bucket can
hold passes when that is full, and leaves it in debt.  So in any t seconds no more than ``rate * t + burst``
passes, or, where a single request is larger than the burst, that request in place of the burst.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from fisk_core.dataplane import protocol as nbd
from fisk_core.errors import InvalidValue

PREFIX = "qos."
KINDS, UNITS = ("read", "write", "total"), ("iops", "bytes")
NAMES = tuple(f"{kind}_{unit}" for kind in KINDS for unit in UNITS)
MAX_VALUE = 1 << 53
"""Limits are exact up to here, where Python's floats are."""
_MAX_DIGITS = 20
_BURST = "_burst"
_DEFAULT_BURST = 10  # a tenth of a second's worth: long enough for the loop's timer, and still smooth

_READS = frozenset((nbd.CMD_READ, nbd.CMD_CACHE))
_WRITES = frozenset((nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES))


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` a second, ``burst`` at once."""

    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one Fisk by name (``total_iops``); what is not named is not limited."""

    by_name: Mapping[str, Limit]

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> Self:
        """Read the limits among the attributes of a Fisk; raises InvalidValue for what is none."""
        given = {key: value_of(key, value) for key, value in attributes.items() if key.startswith(PREFIX)}
        limits = {}
        for name in NAMES:
            rate, burst = given.get(PREFIX + name), given.get(PREFIX + name + _BURST)
            if rate is not None:
                limits[name] = Limit(rate, burst or max(1, rate // _DEFAULT_BURST))
            elif burst is not None:
                raise InvalidValue(f"{PREFIX}{name}{_BURST} means nothing without {PREFIX}{name}")
        return cls(limits)

    def __bool__(self) -> bool:
        return bool(self.by_name)


def value_of(key: str, value: str) -> int:
    """Give what one attribute of QoS says; raises InvalidValue for a key or value that is none."""
    if key.removeprefix(PREFIX).removesuffix(_BURST) not in NAMES:
        raise InvalidValue(f"'{key}' is no limit (there are: {', '.join(PREFIX + name for name in NAMES)})")
    shaped = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
    if not shaped or not 0 < int(value) <= MAX_VALUE:
        raise InvalidValue(f"{key} is '{value}', not a positive whole number a second up to {MAX_VALUE}")
    return int(value)


class Bucket:
    """Tokens that come at a steady rate, up to a level; below 0 is debt."""

    __slots__ = ("at", "burst", "level", "rate")

    def __init__(self, limit: Limit, now: float) -> None:
        self.rate, self.burst = limit.rate, limit.burst
        self.level = float(limit.burst)
        self.at = now

    def refill(self, now: float) -> None:
        """Add what came until ``now`` (seconds, never going back)."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now

    def delay(self, amount: int) -> float:
        """Give the seconds until a request of ``amount`` passes; 0 when it does now."""
        lacking = min(amount, self.burst) - self.level
        return lacking / self.rate if lacking > 0 else 0.0

    def change(self, limit: Limit, now: float) -> None:
        """Go on under another limit: a debt takes as many seconds as before, savings are what still fits."""
        self.refill(now)
        self.level = self.level / self.rate * limit.rate if self.level < 0 else min(self.level, limit.burst)
        self.rate, self.burst = limit.rate, limit.burst


Draw = tuple[Bucket, int]
"""a bucket and what a request takes from it"""


class Buckets:
    """All buckets of one served Fisk."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._buckets = {name: Bucket(limit, now) for name, limit in limits.by_name.items()}
        self._arrange()

    def change(self, limits: Limits, now: float) -> None:
        """Take other limits; what stays limited keeps its tokens and debts."""
        old, self._buckets = self._buckets, {}
        for name, limit in limits.by_name.items():
            bucket = old.get(name)
            if bucket is None:
                bucket = Bucket(limit, now)
            else:
                bucket.change(limit, now)
            self._buckets[name] = bucket
        self._arrange()

    def _arrange(self) -> None:
        def named(*names: str) -> list[Bucket]:
            return [self._buckets[name] for name in names if name in self._buckets]

        reads = named("read_iops", "total_iops"), named("read_bytes", "total_bytes")
        writes = named("write_iops", "total_iops"), named("write_bytes", "total_bytes")
        self._by_command = {**dict.fromkeys(_READS, reads), **dict.fromkeys(_WRITES, writes)}

    def draws(self, command: int, length: int) -> list[Draw]:
        """Give what a request takes; nothing for one that is not limited.

        TRIM and WRITE_ZEROES are write requests without bytes: they move none.  CACHE reads.  FLUSH and
        BLOCK_STATUS are free: a flush held back would keep what was written, and paid for, from becoming
        durable.  No more is drawn than the largest request may have, even for what will be refused.
        """
        operations, volume = self._by_command.get(command, ((), ()))
        draws = [(bucket, 1) for bucket in operations]
        if volume and command in _MOVING:
            draws += [(bucket, min(length, nbd.MAX_REQUEST)) for bucket in volume]
        return draws

    def refill(self, now: float) -> None:
        for bucket in self._buckets.values():
            bucket.refill(now)


_MOVING = frozenset((nbd.CMD_READ, nbd.CMD_WRITE, nbd.CMD_CACHE))


def delay(draws: Iterable[Draw]) -> float:
    """Give the seconds until all of it can be drawn; 0 when it can now."""
    return max((bucket.delay(amount) for bucket, amount in draws), default=0.0)


def take(draws: Iterable[Draw]) -> None:
    for bucket, amount in draws:
        bucket.level -= amount


def weight(draws: Iterable[Draw]) -> float:
    """Give what a request takes of the Fisk's time: seconds of the limit it uses most."""
    return max((amount / bucket.rate for bucket, amount in draws), default=0.0)

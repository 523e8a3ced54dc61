# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is when several want more than there is: start-time fair queueing.

Everybody who waits has a *start*: a moment in a time that passes only by being served.  The earliest start
is served next, and moves on by what the request took.  Who comes, or comes back, starts no earlier than
whoever was served last.  So each gets an equal share of what the buckets give while it wants it, however many
requests it has lying ready, and nobody saves up turns by staying away.

Who is first and finds a bucket too empty keeps it: those behind may go on with other buckets, but take
nothing from that one.  So a large request is not starved by small ones, nor reads by writes.
"""

import heapq
from itertools import count
from typing import Protocol

from fisk_core.dataplane import qos
from fisk_core.dataplane.qos import Bucket, Buckets, Draw


class Customer(Protocol):
    """One who has requests, in order."""

    start: float
    """where its next request starts"""

    def wants(self) -> list[Draw] | None:
        """Give what the first request not granted yet takes; None when there is none."""

    def grant(self) -> None:
        """Take notice that this request may be carried out."""


class Turns:
    """Those who wait for the buckets of one Fisk."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._heap: list[tuple[float, int, Customer]] = []
        self._order = count()
        self._now = 0.0
        """start of the request that was served last"""

    def __len__(self) -> int:
        return len(self._heap)

    def enter(self, customer: Customer) -> None:
        """Let one wait who does not; :meth:`serve` is due."""
        customer.start = max(customer.start, self._now)
        heapq.heappush(self._heap, (customer.start, next(self._order), customer))

    def leave(self, customer: Customer) -> None:
        """Let one go; nothing happens if it does not wait."""
        self._heap = [entry for entry in self._heap if entry[2] is not customer]
        heapq.heapify(self._heap)

    def serve(self, now: float) -> tuple[list[Customer], float | None]:
        """Grant what passes at the time ``now``.

        Gives those who were granted something, who wait no more and enter again for what they still want, and
        the seconds until somebody else's turn may come: None when nobody is left.
        """
        self._buckets.refill(now)
        served: dict[Customer, None] = {}
        held: list[tuple[float, int, Customer]] = []
        kept: set[Bucket] = set()
        soonest: float | None = None
        while self._heap:
            start, order, customer = heapq.heappop(self._heap)
            draws = customer.wants()
            if draws is None:
                continue
            wait = qos.delay(draws)
            if wait or any(bucket in kept for bucket, _ in draws):
                kept.update(bucket for bucket, amount in draws if bucket.delay(amount))
                soonest = wait if soonest is None else min(soonest, wait or soonest)
                held.append((start, order, customer))
                continue
            qos.take(draws)
            customer.grant()
            served[customer] = None
            self._now = max(self._now, start)
            customer.start = start + qos.weight(draws)
            heapq.heappush(self._heap, (customer.start, order, customer))
        # Who got something enters again by itself once that is done, at the start it has now.
        self._heap = [entry for entry in held if entry[2] not in served]
        heapq.heapify(self._heap)
        return list(served), soonest

# SPDX-License-Identifier: Apache-2.0
"""Limits at work: requests wait in the inboxes they came to until their turn.

Before a batch is looked at, :meth:`Throttle.admit` pays for its requests, header by header, and says where
in the inbox the paid ones end; the rest of the data path knows nothing of limits.  A connection with requests
it could not pay for receives nothing meanwhile, so that its client feels it, and takes its turn among the
others.  A request is paid for once, when it is let in, however often it is put off afterwards.
"""

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from fisk_core.dataplane import qos
from fisk_core.dataplane.protocol import CMD_WRITE, REQUEST, REQUEST_MAGIC
from fisk_core.dataplane.qos import Buckets, Draw, Limits
from fisk_core.dataplane.turns import Turns

if TYPE_CHECKING:
    from fisk_core.dataplane.connection import Connection
    from fisk_core.dataplane.server import Server


class Share:
    """What one connection has paid for, and its place among those that wait."""

    __slots__ = ("_buckets", "_size", "conn", "end", "paid", "start")

    def __init__(self, conn: "Connection", buckets: Buckets) -> None:
        self.conn, self._buckets = conn, buckets
        self.paid = 0
        """bytes of requests paid for, from the first one in the inbox; the last may have yet to come whole"""
        self.end = 0
        self.start = 0.0
        self._size = 0

    def reach(self) -> int:
        """Give where in the inbox the requests end that are paid for; what a large write lacks is before."""
        stream = self.conn.stream
        return self.paid + (stream.left if stream is not None else 0)

    def wants(self) -> list[Draw] | None:
        conn, at = self.conn, self.reach()
        if conn.closed or conn.have - at < REQUEST.size:
            return None
        magic, _, kind, _, _, length = REQUEST.unpack_from(conn.inbox, at)
        self._size = REQUEST.size + (length if kind == CMD_WRITE else 0)
        # What is no request is let through to where it is refused.
        return self._buckets.draws(kind, length) if magic == REQUEST_MAGIC else []

    def grant(self) -> None:
        self.paid += self._size

    def settle(self, position: int) -> None:
        """Take notice that the first ``position`` bytes of the inbox were used and dropped."""
        stream = self.conn.stream
        self.paid = max(0, self.end - position - (stream.left if stream is not None else 0))


class Throttle:
    """The limits of one served Fisk; there is none while nothing is limited."""

    def __init__(self, server: "Server", limits: Limits) -> None:
        self._server = server
        self._buckets = Buckets(limits, monotonic())
        self._turns = Turns(self._buckets)
        self._due: float | None = None

    def change(self, limits: Limits) -> None:
        """Go on under other limits, at once."""
        self._buckets.change(limits, monotonic())
        self._serve()

    def close(self) -> None:
        """Let everybody go on unlimited."""
        self._due = None
        for conn in list(self._server.connections):
            conn.share = None
            if conn.throttled:
                self._release(conn)
                conn.watch()
                self._server.resume(conn)

    def admit(self, conn: "Connection") -> int:
        """Pay for what may pass of the requests in the inbox; gives where those end that may be answered."""
        share = conn.share
        if share is None:
            share = conn.share = Share(conn, self._buckets)
        if not self._turns:  # else its turn comes, and what it was granted then is paid for already
            self._buckets.refill(monotonic())
            while (draws := share.wants()) is not None and not qos.delay(draws):
                qos.take(draws)
                share.grant()
        share.end = share.reach()
        return min(share.end, conn.have)

    def settle(self, conn: "Connection", position: int) -> None:
        """Take notice how far the inbox was answered, and let the connection wait if more lies there."""
        share = conn.share
        if share is None or conn.closed:
            return
        share.settle(position)
        # With something paid for it is the disk or the client that is waited for; it comes here again.
        draws = None if share.paid else share.wants()
        if draws is not None:
            conn.throttled = monotonic()
            self._turns.enter(share)
            conn.watch()
            self._arm(qos.delay(draws))

    def _arm(self, seconds: float) -> None:
        """Serve in so many seconds, unless that happens earlier anyway."""
        due = monotonic() + seconds
        if self._due is None or due < self._due:
            self._due = due
            self._server.loop.later(seconds, partial(self._on_time, due))

    def _on_time(self, due: float) -> None:
        if due == self._due:
            self._serve()

    def _serve(self) -> None:
        """Let those whose turn it is go on, until the buckets are too empty for all who are left."""
        self._due = None
        while True:
            served, soonest = self._turns.serve(monotonic())
            for share in served:
                assert isinstance(share, Share)
                self._go_on(share.conn)
            if not served:
                break
        if soonest is not None:
            self._arm(soonest)

    def _go_on(self, conn: "Connection") -> None:
        self._release(conn)
        self._server.process(conn)
        if not conn.throttled:
            conn.watch()

    def _release(self, conn: "Connection") -> None:
        self._server.metrics.throttled += monotonic() - conn.throttled
        conn.throttled = 0.0


def limit(server: "Server", limits: Limits) -> None:
    """Keep ``limits`` from the next request on; empty ones cost nothing."""
    transmission = server.transmission
    throttle = transmission.throttle
    if throttle is None:
        transmission.throttle = Throttle(server, limits) if limits else None
    elif limits:
        throttle.change(limits)
    else:
        transmission.throttle = None
        throttle.close()

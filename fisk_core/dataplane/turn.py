# SPDX-License-Identifier: Apache-2.0
"""A server that waits for its turn: another host writes the Fisk, until the guest has come here.

QEMU opens its disks at both ends of a migration.  What this server answers before it may write:

- a **read** (or block status) by what the writer has made durable, looked up anew for every batch of reads:
  the description that the writer publishes, then map and layers, none of it opened before the read came.
  The writer's QEMU flushes when its guest has stopped, and this one's guest is started later; so what the
  guest reads here has everything in it, and nothing it reads was kept from before.
- a **flush** at once: nothing was written here.  It must not be taken for a sign that the guest has come:
  QEMU flushes its disks when it ends, also after a migration that was cancelled.
- a **change** not at all: it stays where it is, with all that follows, and the supervisor is told that the
  turn has come.  Only a guest that runs here writes; then, or when the supervisor is told otherwise, it takes
  the lease, waits for the Fisk's lock, and hands it in.

Nothing is written before that, and no lock held: a server that waits may end at any moment.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fisk_core import errors
from fisk_core.dataplane import outgoing
from fisk_core.dataplane import protocol as nbd
from fisk_core.dataplane.connection import Connection
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.fence import check, watch
from fisk_core.dataplane.spec import DiskSpec, FenceOptions, TurnOptions
from fisk_core.dataplane.transmission import CHANGES, Request, Statuses, statuses
from fisk_core.pools import open_pool

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

LOG = logging.getLogger(__name__)
PATIENCE = 5.0
"""seconds in which a map that is being changed must have been read whole once"""
_AGAIN_SECONDS = 0.02

Answer = memoryview | Statuses | Exception


def published(turn: TurnOptions) -> DiskSpec:
    """Give what the writer says to who waits here; raises NotFound when it does not (yet), Corrupt."""
    found = outgoing.read(Path(turn.path))
    if found is None or found.get("id") != turn.id:
        raise errors.NotFound("the host that writes the Fisk does not say where it is")
    try:
        return DiskSpec(**found["spec"])
    except (KeyError, TypeError) as exc:
        raise errors.Corrupt(f"{turn.path} is damaged: {exc!r}") from exc


class Turn:
    """The waiting of one server; on its loop, but for reading."""

    def __init__(self, server: "Server", options: TurnOptions) -> None:
        self._server, self.options = server, options
        self.wanted = False
        """a client wants to change something"""
        self._tell: list[Callable[[], None]] = []
        self._queue: list[Request] = []
        self._reading = False

    def when_wanted(self, call: Callable[[], None]) -> None:
        """Call it once, as soon as a client wants to change something, or the turn has come anyway."""
        if self.wanted:
            call()
        else:
            self._tell.append(call)

    def process(self, conn: Connection) -> None:
        """Answer what can be answered of the inbox; raises ProtocolError for what is not a request."""
        position = 0
        while not conn.closed and not conn.full and conn.have - position >= nbd.REQUEST.size:
            magic, flags, kind, cookie, offset, length = nbd.REQUEST.unpack_from(conn.inbox, position)
            if magic != nbd.REQUEST_MAGIC:
                raise errors.ProtocolError("a request without its magic number")
            if kind in CHANGES and not conn.read_only:
                self._want()
                break
            if kind == nbd.CMD_WRITE:
                raise errors.ProtocolError("a write by a client that may only read")
            position += nbd.REQUEST.size
            if kind == nbd.CMD_DISC:
                conn.finish()
                break
            self._one(Request(conn, flags, kind, cookie, offset, length, received=time.monotonic()))
        conn.consume(position)
        conn.watch()

    def _want(self) -> None:
        """Let everything wait from here on, and tell whoever can change that."""
        self._server.pause("turn")
        if not self.wanted:
            LOG.info("Fisk %s: the first change has come", self._server.disk.spec.name)
            self.wanted = True
        self._answer_askers()

    def _answer_askers(self) -> None:
        tell, self._tell = self._tell, []
        for call in tell:
            call()

    def _one(self, request: Request) -> None:
        transmission = self._server.transmission
        try:
            transmission.check(request)
        except errors.FiskError as exc:
            transmission.fail(request, exc)
            return
        if request.kind in (nbd.CMD_READ, nbd.CMD_BLOCK_STATUS):
            request.conn.began(1, request.length if request.kind == nbd.CMD_READ else 0)
            self._queue.append(request)
            self._read()
        else:
            transmission.succeed(request)

    # Reading

    def _read(self) -> None:
        if self._queue and not self._reading:
            batch, self._queue, self._reading = self._queue, [], True
            self._server.loop.submit("turn", 1, partial(self._answers, batch), partial(self._done, batch))

    def _answers(self, batch: list[Request]) -> list[Answer]:
        """Give the answers to requests, all of which came before anything here is opened."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                spec = published(self.options)
                with Disk.open(open_pool(spec.pool), spec) as disk:
                    return [self._answer(disk, request) for request in batch]
            except errors.FiskError:
                # Map and checksums may be in the middle of a change, at another host.
                if time.monotonic() > deadline or self._server.turn is not self:
                    raise
            time.sleep(_AGAIN_SECONDS)

    def _answer(self, disk: Disk, request: Request) -> Answer:
        if request.kind == nbd.CMD_READ:
            data = memoryview(bytearray(request.length))
            # A Fisk that was made larger is read here as far as its client knows; never the other way round.
            disk.read_into(data, request.offset)
            return data
        export = copy.copy(self._server.export)
        export.disk = disk
        return statuses(request, export)

    def _done(self, batch: list[Request], answers: list[Answer] | None, error: Exception | None) -> None:
        self._reading = False
        for number, request in enumerate(batch):
            answer = answers[number] if answers else error
            self._server.guard(request.conn, partial(self._send, request, answer))
            request.conn.ended(1, request.length if request.kind == nbd.CMD_READ else 0)
        self._read()

    def _send(self, request: Request, answer: Answer | None) -> None:
        transmission = self._server.transmission
        if isinstance(answer, memoryview):
            transmission.answer_data(request, answer)
        elif isinstance(answer, list):
            transmission.tell_status(request, answer)
        elif self._server.turn is not self:
            transmission.handle(request)  # it is our Fisk by now
        elif answer is not None:
            transmission.fail(request, answer)

    # The end of waiting

    def come(self, spec: DiskSpec, fence: FenceOptions, lock: int) -> None:
        """Write the Fisk from now on, with its lock in the descriptor ``lock``, ours once this returns.

        Raises what keeps us from it.
        """
        check(fence)
        server = self._server
        server.become_writer(spec)
        server.options = replace(server.options, fence=fence, lock=lock, turn=None)
        watch(server)
        server.unpause("turn")
        self._answer_askers()  # a request without an answer would keep a successor waiting
        LOG.info("Fisk %s is written here from now on, epoch %d", spec.name, fence.epoch)

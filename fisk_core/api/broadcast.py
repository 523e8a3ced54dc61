# SPDX-License-Identifier: Apache-2.0
"""Events for many streams: one thread reads them from the catalog, however many follow.

A stream first reads what it missed from the catalog, then takes what the thread hands out; numbers tell what
it has had already.  One that does not keep up is ended: its client comes back and says where it was.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from fisk_core.engine.context import Context
from fisk_core.errors import FiskError
from fisk_core.model import Event
from fisk_core.services import events

LOG = logging.getLogger(__name__)

ALIVE_SECONDS = 15.0
RETRY_SECONDS = 1.0
_WAITING = 1000
"""events a stream may be behind"""
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)

Queue = asyncio.Queue[Event | None]


class Broadcast:
    """Hands events out."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._queues: set[Queue] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def follow(self, after: int | None) -> AsyncIterator[bytes]:
        """Give events after a number (None: from now on) as an event stream; belongs to the event loop."""
        if self._stopping.is_set():
            return
        queue: Queue = asyncio.Queue(_WAITING)
        self._begin()
        self._queues.add(queue)  # before the look at what was: nothing falls between
        try:
            yield b": fisk\n\n"
            last = after if after is not None else await run_in_threadpool(events.latest, self._context)
            while missed := await run_in_threadpool(events.read, self._context, last):
                for each in missed:
                    yield _message(each)
                last = missed[-1].num
            async for event in _fresh(queue):
                if event is None:
                    yield b": alive\n\n"
                elif event.num > last:
                    yield _message(event)
                    last = event.num
        finally:
            self._queues.discard(queue)

    def end_streams(self) -> None:
        """End every stream, and have no more; belongs to the event loop."""
        self._stopping.set()
        for queue in list(self._queues):
            self._end(queue)

    def close(self) -> None:
        """Wait for the thread to end, after ``end_streams``."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _begin(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._read, name="fisk-events", daemon=True)
            self._thread.start()

    def _read(self) -> None:
        """Read events as they come, for as long as the daemon runs."""
        last: int | None = None
        while not self._stopping.is_set():
            try:
                for event in events.follow(self._context, last, self._stopping):
                    last = event.num
                    self._hand_out(event)
            except FiskError as exc:
                LOG.warning("events cannot be read at the moment: %s", exc)
                self._stopping.wait(RETRY_SECONDS)

    def _hand_out(self, event: Event) -> None:
        assert self._loop is not None
        if self._queues and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._end(queue)

    def _end(self, queue: Queue) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


async def _fresh(queue: Queue) -> AsyncIterator[Event | None]:
    """Give what comes, None where nothing does for a while; ends when the queue is given up."""
    while True:
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                event = await queue.get()
        except TimeoutError:
            yield None
            continue
        if event is None:
            return
        yield event


def _message(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.num, event.kind.encode(), _EVENT.dump_json(event))

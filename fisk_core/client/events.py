# SPDX-License-Identifier: Apache-2.0
"""Events as they happen: a stream that is taken up again after whatever interrupts it."""

import json
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from sseclient import SSEClient

from fisk_core.client.answers import decode
from fisk_core.client.transport import Transport
from fisk_core.errors import FiskError, Overloaded, ProtocolError, Unavailable
from fisk_core.model import Event

SILENCE = 60.0
"""Seconds without a sign of life (the daemon gives one every few) after which the stream counts as dead."""


def follow(
    transport: Transport, after: int | None = None, patience: float | None = None
) -> Generator[Event, None, None]:
    """Give every event after number ``after`` (default: from now on), for ever, each once and in order.

    Connects again whenever the stream ends; raises Unavailable when that has not worked for ``patience``
    seconds (default: as long as other calls are retried), and Forbidden, Unauthenticated.
    """
    last, tries = after, 0
    limit = transport.patience.total if patience is None else patience
    heard = time.monotonic()
    while True:
        why: FiskError = Unavailable("the daemon ended the stream of events")
        try:
            for event in _stream(transport, last):
                tries, heard = 0, time.monotonic()
                if event is not None:
                    yield event
                    last, heard = event.num, time.monotonic()
            heard = time.monotonic()
        except _Broken as exc:
            why, heard = exc.error, time.monotonic()
        except (Unavailable, Overloaded) as exc:
            why = exc
        pause = transport.patience.pause(tries)
        if time.monotonic() + pause - heard > limit:
            raise why
        time.sleep(pause)
        tries += 1


def recent(transport: Transport, after: int = 0, silence: float = 1.0) -> Generator[Event, None, None]:
    """Give the events after number ``after`` that there are, until none came for ``silence`` seconds."""
    with suppress(_Broken):
        for event in _stream(transport, after, silence):
            if event is not None:
                yield event


class _Broken(Exception):
    """A stream that was there broke off."""

    def __init__(self, error: FiskError) -> None:
        super().__init__(str(error))
        self.error = error


def _stream(
    transport: Transport, after: int | None, silence: float = SILENCE
) -> Generator[Event | None, None, None]:
    """Give None once the stream is there, then its events."""
    params: dict[str, Any] = {} if after is None else {"after": after}
    connected = False
    try:
        with transport.stream("/events", params=params, silence=silence) as response:
            connected = True
            yield None
            for message in SSEClient(response.iter_content(chunk_size=None)).events():
                yield _event(message.data)
    except Unavailable as exc:
        if connected:
            raise _Broken(exc) from exc
        raise


def _event(text: str) -> Event:
    try:
        return decode(Event, json.loads(text))
    except ValueError as exc:
        raise ProtocolError("the daemon sent an event that is not JSON") from exc

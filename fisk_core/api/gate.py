# SPDX-License-Identifier: Apache-2.0
"""What every request passes first: its id, the limits, who asks, and a line in the log afterwards.

One layer of plain ASGI around the application: each layer costs every request.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from fisk_core.api import problems, request
from fisk_core.api.identity import Caller, Tokens
from fisk_core.api.limits import Limits
from fisk_core.errors import FiskError, LimitExceeded, Overloaded, Unauthenticated

LOG = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STREAMS = "/v1/events"
_PUBLIC = ("/healthz", "/ui")
_PUBLIC_BELOW = "/ui/"
NOBODY = Caller("anonymous", None)


class Gate:
    """The application with its gate; ``scope["fisk.caller"]`` is who asks."""

    def __init__(self, app: App, limits: Limits, tokens: Tokens) -> None:
        self._app, self._limits, self._tokens = app, limits, tokens
        self.requests = 0
        """under way"""
        self.streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"unexpected {scope['type']}")
        headers = dict(scope["headers"])
        passage = _Passage(scope, send, request.begin(headers.get(b"x-request-id")))
        try:
            await self._admit(scope, headers, receive, passage)
        except FiskError as exc:
            await problems.answer(exc)(scope, receive, passage.send)
        except Exception:  # a bug shall cost its request an answer with an id, and nobody else anything
            LOG.exception("%s %s failed in a way that nobody expected", scope["method"], scope["path"])
            if not passage.status:
                error = FiskError("an internal error; the log has more")
                await problems.answer(error)(scope, receive, passage.send)
        finally:
            passage.log()

    async def _admit(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, passage: "_Passage"
    ) -> None:
        limits = self._limits
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limits.max_body:
            passage.closing = True
            raise LimitExceeded(f"the body is larger than {limits.max_body} bytes")
        if scope["path"] == STREAMS:
            if self.streams >= limits.max_streams:
                raise Overloaded(f"{limits.max_streams} streams are open already")
            self.streams += 1
        else:
            if self.requests >= limits.max_requests:
                raise Overloaded(f"{limits.max_requests} requests are under way already")
            self.requests += 1
        try:
            scope["fisk.caller"] = await self._caller(scope, headers)
            await self._app(scope, _Body(receive, limits, passage).receive, passage.send)
        finally:
            if scope["path"] == STREAMS:
                self.streams -= 1
            else:
                self.requests -= 1

    async def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        """Say who asks; raises Unauthenticated.  A token counts more than the process that shows it."""
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, secret = given.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated("only bearer tokens are understood")
            secret = secret.strip()
            known = self._tokens.remembered(secret)
            return known if known is not None else await run_in_threadpool(self._tokens.holder, secret)
        peer: Caller | None = scope.get("fisk.peer")
        path: str = scope["path"]
        if peer is not None:
            return peer
        if path in _PUBLIC or path.startswith(_PUBLIC_BELOW):
            return NOBODY
        raise Unauthenticated("a bearer token is needed here")


class _Passage:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope, self._send = scope, send
        self._id = request_id.encode()
        self._began = time.perf_counter()
        self.status = 0
        self.closing = False
        """the connection ends with the answer: the rest of what came on it is not worth reading"""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id)]
            if self.closing:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)

    def log(self) -> None:
        scope = self._scope
        taken = (time.perf_counter() - self._began) * 1000
        who = scope.get("fisk.caller", NOBODY).name
        LOG.info("%s %s %d %.1f ms %s", scope["method"], scope["path"], self.status, taken, who)


class _Body:
    """Receives a body that is not too long and does not take too long."""

    def __init__(self, receive: Receive, limits: Limits, passage: _Passage) -> None:
        self._receive, self._limits, self._passage = receive, limits, passage
        self._left = limits.max_body
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                message = await self._receive()
        except TimeoutError:
            self._passage.closing = True
            raise HTTPException(408, "the request took too long to arrive") from None
        self._left -= len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._left < 0:
            self._passage.closing = True
            raise HTTPException(413, f"the body is larger than {self._limits.max_body} bytes")
        return message

# SPDX-License-Identifier: Apache-2.0
"""The page people look at: static files that use the same API as everybody else.

Nothing in them is secret, so they are given to anyone; what they show needs a token like any other client.
They work without any other server, and the policy sent with them keeps it so: no code but their own runs,
and nothing else is loaded or talked to, even if a name that somebody chose got into the page as markup.
"""

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

PATH = "/ui"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked for again each time, mostly answered with 304: one version's page never meets another's code.
    "cache-control": "no-cache",
}


async def to_page(_: Request) -> Response:
    """Send those on who left out the slash at the end."""
    return RedirectResponse(f"{PATH}/", 308)


class Page:
    """An ASGI application that serves the page; mount it at ``PATH``."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=Path(__file__).parent / "static", html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._files(scope, receive, guarded)

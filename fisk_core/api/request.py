# SPDX-License-Identifier: Apache-2.0
"""What is known of the request that is being worked on: its id, in the thread that works on it too."""

import re
import uuid
from contextvars import ContextVar

_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str] = ContextVar("fisk_request_id", default="")


def request_id() -> str:
    """Give the id of the current request, empty outside of one."""
    return _current.get()


def begin(given: bytes | None) -> str:
    """Take the id a client gave, if it is one, or make one; it is the current one from now on."""
    chosen = given.decode() if given and _GIVEN.fullmatch(given) else f"req-{uuid.uuid4()}"
    _current.set(chosen)
    return chosen

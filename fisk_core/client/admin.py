# SPDX-License-Identifier: Apache-2.0
"""Schedules and tokens of a daemon."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

from fisk_core.client.answers import decode, decode_all
from fisk_core.client.transport import Transport
from fisk_core.client.verbs import items
from fisk_core.model import Retention, Schedule, Token

Schedules = list[Schedule]
Tokens = list[Token]


class NewToken(NamedTuple):
    """A token and its secret, which nobody can read again."""

    token: Token
    secret: str


class RemoteSchedules:
    """Periodic snapshots; see ``fisk_core.services.schedules``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        ref: str,
        interval: int,
        *,
        retention: Retention | None = None,
        prefix: str = "auto",
        expire: int | None = None,
        expendable: bool = False,
        enabled: bool = True,
        start: datetime | None = None,
        id: str | None = None,
    ) -> Schedule:
        """Have a snapshot taken every ``interval`` seconds, the first at ``start`` (default: now)."""
        body = {"fisk": ref, "interval": interval, "prefix": prefix, "expire": expire, "enabled": enabled}
        body |= {"expendable": expendable, "retention": asdict(retention or Retention())}
        body |= {"start": None if start is None else start.isoformat(), "id": id or str(uuid4())}
        return decode(Schedule, self._transport.call("POST", "/schedules", json=body, again=True))

    def get(self, id: str) -> Schedule:
        return decode(Schedule, self._transport.call("GET", _path("schedules", id)))

    def list(self, ref: str | None = None) -> Schedules:
        """Give all schedules, or those of one Fisk."""
        answer = self._transport.call("GET", "/schedules", params={"fisk": ref})
        return decode_all(Schedule, items(answer, "schedules"))

    def set(self, id: str, **changes: Any) -> Schedule:
        """Change interval, retention, prefix, expire, expendable, enabled; what is not given stays."""
        return decode(Schedule, self._transport.call("PATCH", _path("schedules", id), json=_plain(changes)))

    def delete(self, id: str) -> None:
        """End a schedule; its snapshots stay.  One that does not exist is ended already."""
        self._transport.call("DELETE", _path("schedules", id))


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: asdict(each) if isinstance(each, Retention) else each for key, each in changes.items()}


class RemoteTokens:
    """Bearer tokens: who may come in over TCP."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, role: str, *, seconds: int | None = None) -> NewToken:
        """Make a token for a role (reader, operator, admin), good for so many seconds or for ever."""
        body = {"name": name, "role": role, "seconds": seconds}
        made = self._transport.call("POST", "/tokens", json=body)
        return NewToken(decode(Token, made["token"]), str(made["secret"]))

    def list(self) -> Tokens:
        return decode_all(Token, items(self._transport.call("GET", "/tokens"), "tokens"))

    def delete(self, name: str) -> None:
        """Remove a token by name or id; one that does not exist is removed already."""
        self._transport.call("DELETE", _path("tokens", name))


def _path(noun: str, id: str) -> str:
    return f"/{noun}/{quote(id, safe='')}"

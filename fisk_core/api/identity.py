# SPDX-License-Identifier: Apache-2.0
"""Who asks: the process at the other end of a unix socket, or the holder of a bearer token.

On the unix socket the kernel says who it is, at the moment it connected: root and the daemon's own user are
administrators, members of two groups have a role, everybody else has none.  A token's role is looked up by
its digest: the secret has 256 bits, so neither a slow hash nor the time of the look-up tells an attacker
anything, and the digest that was found is compared once more in constant time.
"""

import grp
import hashlib
import hmac
import os
import pwd
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fisk_core.catalog import Catalog, tokens
from fisk_core.errors import InvalidValue, Unauthenticated
from fisk_core.model import Token

READER, OPERATOR, ADMIN = "reader", "operator", "admin"
ROLES = (READER, OPERATOR, ADMIN)
"""each may do what those before it may"""
PREFIX = "fisk_"
REMEMBER_SECONDS = 5.0
"""how long a token that another process removed may still work here"""
_MAX_REMEMBERED = 1024
_PEERCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59
_ANSWER = 1024  # bytes; Python takes no more


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a role, or with none; ``name`` is for the log and for policies."""

    name: str
    role: str | None

    @property
    def roles(self) -> list[str]:
        """The role and those it includes."""
        return list(ROLES[: ROLES.index(self.role) + 1]) if self.role else []


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups whose members have a role on the unix socket; None: nobody."""

    operator: int | None = None
    reader: int | None = None

    @classmethod
    def named(cls, operator: str | None, reader: str | None) -> "Groups":
        """Look the names up; raises InvalidValue for one that does not exist."""
        return cls(group_id(operator), group_id(reader))


def group_id(name: str | None) -> int | None:
    """Give the id of a group, None for no name; raises InvalidValue."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as exc:
        raise InvalidValue(f"there is no group '{name}'") from exc


def peer(sock: socket.socket, groups: Groups) -> Caller:
    """Say who connected to a unix socket."""
    size = _PEERCRED.size
    _, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid in (0, os.geteuid()):
        return Caller(f"uid:{uid}", ADMIN)
    if groups.operator is None and groups.reader is None:
        return Caller(f"uid:{uid}", None)
    found = {gid, *_supplementary(sock, uid, gid)}
    if groups.operator in found:
        return Caller(f"uid:{uid}", OPERATOR)
    return Caller(f"uid:{uid}", READER if groups.reader in found else None)


def _supplementary(sock: socket.socket, uid: int, gid: int) -> list[int]:
    """Give the other groups of the peer, as the kernel knows them: no look-up of names, nothing stale.

    Only who has more than fit into an answer is looked up.
    """
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _ANSWER)
    except OSError:
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return []
    return [number for (number,) in struct.iter_unpack("I", found)]


def new_secret() -> str:
    """Make what a caller shows: ``fisk_`` and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Tokens:
    """Looks tokens up, and remembers those it found for a moment.  May be used by several threads."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog, self._clock = catalog, clock
        self._known: dict[str, tuple[float, Token]] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Look every token up again."""
        with self._lock:
            self._known.clear()

    def remembered(self, secret: str) -> Caller | None:
        """Give the holder of a token that was looked up a moment ago; never waits."""
        found = self._known.get(digest(secret))
        if found is None or found[0] < self._clock() or _expired(found[1]):
            return None
        return Caller(f"token:{found[1].name}", found[1].role)

    def holder(self, secret: str) -> Caller:
        """Give the holder of a token; raises Unauthenticated."""
        key = digest(secret)
        with self._catalog.read() as conn:
            row = tokens.by_digest(conn, key)
        if row is None or not hmac.compare_digest(row.digest, key):
            raise Unauthenticated("this token is not known")
        if _expired(row.token):
            raise Unauthenticated("this token has expired")
        with self._lock:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = (self._clock() + REMEMBER_SECONDS, row.token)
        return Caller(f"token:{row.token.name}", row.token.role)


def _expired(token: Token) -> bool:
    return token.expires is not None and token.expires <= datetime.now(UTC)

# SPDX-License-Identifier: Apache-2.0
"""Statements on tokens."""

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from fisk_core.catalog.fisks import new_id
from fisk_core.catalog.schema import tokens
from fisk_core.errors import AlreadyExists
from fisk_core.model import Token

_ALL = select(tokens.c.id, tokens.c.name, tokens.c.role, tokens.c.created_at, tokens.c.expires)
_WITH_DIGEST = _ALL.add_columns(tokens.c.digest)


class Row(NamedTuple):
    """A token and the digest it is found by."""

    token: Token
    digest: str


def add(conn: Connection, name: str, role: str, digest: str, expires: datetime | None) -> Token:
    """Remember a token; ``expires`` has a zone.  Raises AlreadyExists when the name is taken."""
    if conn.execute(select(tokens.c.id).where(tokens.c.name == name)).first() is not None:
        raise AlreadyExists(f"there is a token '{name}' already")
    made = Token(new_id(), name, role, datetime.now(UTC), expires)
    until = expires.astimezone(UTC).replace(tzinfo=None) if expires else None
    created = made.created_at.replace(tzinfo=None)
    values = {"id": made.id, "name": name, "role": role, "digest": digest}
    conn.execute(insert(tokens).values(**values, created_at=created, expires=until))
    return made


def every(conn: Connection) -> list[Token]:
    """Give all tokens, oldest first."""
    return [_token(*row) for row in conn.execute(_ALL.order_by(tokens.c.created_at, tokens.c.name))]


def by_digest(conn: Connection, digest: str) -> Row | None:
    """Give the token with a digest, or None."""
    row = conn.execute(_WITH_DIGEST.where(tokens.c.digest == digest)).first()
    return Row(_token(*row[:-1]), row[-1]) if row is not None else None


def remove(conn: Connection, ref: str) -> bool:
    """Forget the token with an id or name; gives whether there was one."""
    done = conn.execute(delete(tokens).where((tokens.c.id == ref) | (tokens.c.name == ref)))
    return bool(done.rowcount)


def _token(id: str, name: str, role: str, created: datetime, expires: datetime | None) -> Token:
    return Token(
        id, name, role, created.replace(tzinfo=UTC), expires.replace(tzinfo=UTC) if expires else None
    )

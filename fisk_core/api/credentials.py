# SPDX-License-Identifier: Apache-2.0
"""Making bearer tokens: the secret is shown once, its digest is kept."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fisk_core.api import identity
from fisk_core.catalog import Catalog, tokens
from fisk_core.errors import InvalidValue
from fisk_core.model import Token

MAX_SECONDS = 10 * 366 * 86400


@dataclass(frozen=True, slots=True)
class NewlyMade:
    """A token and its secret, which nobody can read again."""

    token: Token
    secret: str


def make(catalog: Catalog, name: str, role: str, seconds: int | None) -> NewlyMade:
    """Make a token; without ``seconds`` it never expires.  Raises AlreadyExists, InvalidValue."""
    if seconds is not None and not 1 <= seconds <= MAX_SECONDS:
        raise InvalidValue(f"a token lasts from 1 to {MAX_SECONDS} seconds")
    secret = identity.new_secret()
    expires = datetime.now(UTC) + timedelta(seconds=seconds) if seconds is not None else None
    with catalog.change() as conn:
        return NewlyMade(tokens.add(conn, name, role, identity.digest(secret), expires), secret)

# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: who may come in over TCP."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from fisk_core import errors
from fisk_core.api.credentials import MAX_SECONDS, NewlyMade, make
from fisk_core.api.identity import ADMIN
from fisk_core.api.models import Body, Name, NameInPath
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.catalog import tokens
from fisk_core.model import Token

router = Operations("tokens")


@dataclass(frozen=True, slots=True)
class TokenList:
    """All tokens, oldest first."""

    tokens: list[Token]


class NewToken(Body):
    """A token for a role; it expires after so many seconds, never if none are given."""

    name: Name
    role: Literal["reader", "operator", "admin"]
    seconds: int | None = Field(None, ge=1, le=MAX_SECONDS)


@router.operation("GET", "/tokens", rule="tokens:list", role=ADMIN, gives=TokenList)
def list_tokens(services: Given) -> TokenList:
    """List the tokens; their secrets are not kept."""
    with services.engine.catalog.read() as conn:
        return TokenList(tokens.every(conn))


@router.operation(
    "POST",
    "/tokens",
    rule="tokens:create",
    role=ADMIN,
    gives=NewlyMade,
    status=201,
    may=(errors.AlreadyExists,),
)
def create_token(services: Given, new: NewToken) -> NewlyMade:
    """Make a token.  Its secret is in this answer and nowhere else; where it got lost, make another."""
    return make(services.engine.catalog, new.name, new.role, new.seconds)


@router.operation("DELETE", "/tokens/{name}", rule="tokens:delete", role=ADMIN)
def delete_token(services: Given, name: NameInPath) -> None:
    """Remove a token by name or id; it works nowhere after five seconds, and here no more at once."""
    with services.engine.catalog.change() as conn:
        tokens.remove(conn, name)
    services.tokens.forget()

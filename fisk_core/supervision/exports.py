# SPDX-License-Identifier: Apache-2.0
"""Ways to a worker: its own sockets, and the names under which the acceptor lets clients in from the network.

A name is a token nobody can guess, made from the attachment's id and a secret of this home, so that it need
not be stored and is the same after a restart.
"""

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from fisk_core.config import Home
from fisk_core.dataplane import routes
from fisk_core.errors import Corrupt, from_oserror

_TOKEN = 43
_SECRET_BYTES = 32


class Exports:
    """The routes of one home's acceptor."""

    def __init__(self, home: Home) -> None:
        self._home = home
        try:
            home.exports.mkdir(mode=0o700, exist_ok=True)
            self._secret = _secret(home.secret)
        except OSError as exc:
            raise from_oserror(exc, f"prepare {home.exports}") from exc

    def token(self, attachment_id: str) -> str:
        digest = hmac.digest(self._secret, attachment_id.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode()[:_TOKEN]

    def publish(self, attachment_id: str, fisk_id: str, read_only: bool) -> None:
        """Let clients in to the Fisk's worker; raises PoolError."""
        route = routes.Route(str(self._home.control(fisk_id)), read_only)
        routes.publish(self._home.exports, self.token(attachment_id), route)

    def withdraw(self, attachment_id: str) -> None:
        """Let no further client in; harmless when done twice."""
        routes.withdraw(self._home.exports, self.token(attachment_id))

    def sweep(self, known: Callable[[], Iterable[str]]) -> None:
        """Remove the routes of all but the known attachments, and what a crash left of one being written."""
        present = list(self._home.exports.iterdir())  # first: a route is published after its row is written
        wanted = {hashlib.sha256(self.token(each).encode()).hexdigest() for each in known()}
        for path in present:
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def uris(
        self,
        attachment_id: str,
        fisk_id: str,
        name: str,
        address: "tuple[str, int, bool] | None",
        *,
        read_only: bool,
    ) -> list[str]:
        """Give the NBD URIs of a worker; ``address`` is where the acceptor listens, and whether under TLS.

        Who shall only read gets a socket where writing is refused, whatever others do with the Fisk.
        """
        path = self._home.reader(fisk_id)
        if not read_only or not path.exists():  # a worker of an earlier version has no such socket
            path = self._home.socket(fisk_id)
        found = [f"nbd+unix:///{quote(name)}?socket={quote(str(path))}"]
        if address is not None:
            host, port, tls = address
            shown = f"[{host}]" if ":" in host else host
            found.append(f"{'nbds' if tls else 'nbd'}://{shown}:{port}/{self.token(attachment_id)}")
        return found


def _secret(path: Path) -> bytes:
    """Give the home's secret, made at first use: whole or not at all, whoever else makes it too.

    Raises Corrupt for one that could be guessed; without it, another is made, and every name changes.
    """
    with suppress(FileNotFoundError):
        return _require_whole(path, path.read_bytes())
    new = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(secrets.token_bytes(_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(new, path)
    new.unlink()
    return _require_whole(path, path.read_bytes())


def _require_whole(path: Path, secret: bytes) -> bytes:
    if len(secret) != _SECRET_BYTES or not any(secret):
        raise Corrupt(f"{path} is damaged; remove it, and every export gets another name")
    return secret

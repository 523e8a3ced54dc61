# SPDX-License-Identifier: Apache-2.0
"""Where an NBD server is: addresses and NBD URIs.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md — ``nbd``, ``nbds``, ``nbd+unix`` and
``nbds+unix``.  Parameters a client does not know are ignored, as that page asks.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from fisk_core.dataplane.client_tls import Tls
from fisk_core.errors import InvalidValue

DEFAULT_PORT = 10809

_SCHEMES = {
    "nbd": (False, False),
    "nbds": (False, True),
    "nbd+unix": (True, False),
    "nbds+unix": (True, True),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One export of one server: ``path`` of a unix socket or ``host`` and ``port``; ``tls`` None is plain."""

    path: str | None = None
    host: str | None = None
    port: int = DEFAULT_PORT
    export: str = ""
    tls: Tls | None = None

    def __str__(self) -> str:
        """The URI (TLS credentials are not part of it)."""
        scheme = "nbds" if self.tls else "nbd"
        name = quote(self.export, safe="")
        if self.path is not None:
            return f"{scheme}+unix:///{name}?socket={quote(self.path)}"
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"{scheme}://{host}{port}/{name}"


def _authority(parts: SplitResult, uri: str) -> tuple[str, int]:
    try:
        return parts.hostname or "localhost", parts.port or DEFAULT_PORT
    except ValueError as exc:
        raise InvalidValue(f"'{uri}' is not an NBD URI: {exc}") from None


def _parameters(query: str) -> dict[str, str]:
    """Split a query.  A plus sign is one: only web forms mean a space by it."""
    pairs = (item.partition("=") for item in query.split("&"))
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _credentials(parts: SplitResult, query: dict[str, str]) -> Tls:
    tls = Tls(username=unquote(parts.username) if parts.username else None)
    if folder := query.get("tls-certificates"):
        tls = replace(Tls.from_directory(Path(folder)), username=tls.username)
    return replace(tls, psk_file=query.get("tls-psk-file"), hostname=query.get("tls-hostname"))


def parse_uri(uri: str) -> Target:
    """Give the target an NBD URI names; raises InvalidValue."""
    try:
        parts = urlsplit(uri)
    except ValueError as exc:
        raise InvalidValue(f"'{uri}' is not an NBD URI: {exc}") from None
    if parts.scheme not in _SCHEMES:
        raise InvalidValue(f"'{uri}' is not an NBD URI: it must begin with {', '.join(_SCHEMES)}")
    unix, secure = _SCHEMES[parts.scheme]
    query = _parameters(parts.query)
    tls = _credentials(parts, query) if secure else None
    # One slash parts authority and export name; further ones belong to the name.
    export = unquote(parts.path.removeprefix("/"))
    path = query.get("socket")
    if unix != bool(path):
        raise InvalidValue(
            f"'{uri}': a socket parameter goes with nbd+unix or nbds+unix, and only with those"
        )
    if unix:
        return Target(path=path, export=export, tls=tls)
    host, port = _authority(parts, uri)
    return Target(host=host, port=port, export=export, tls=tls)


def as_target(target: "str | tuple[str, int] | Path | Target") -> Target:
    """Give the target for a URI, the path of a unix socket, or (host, port)."""
    match target:
        case Target():
            return target
        case (str(host), int(port)):
            return Target(host=host, port=port)
        case Path():
            return Target(path=str(target))
        case str() if "://" in target:
            return parse_uri(target)
        case str():
            return Target(path=target)
    raise InvalidValue(f"{target!r} is not an NBD URI, a socket path or (host, port)")

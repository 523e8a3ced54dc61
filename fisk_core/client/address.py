# SPDX-License-Identifier: Apache-2.0
"""Where the daemon is and who we are to it.

A URL is ``unix:///path/of/fiskd.sock``, ``https://host:port`` or, for a daemon on this host, ``http://…``.
What is not said comes from the environment: ``FISK_URL``, ``FISK_TOKEN``, ``FISK_CACERT``; without a URL it
is the socket in the home directory.
"""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from fisk_core.config import Home
from fisk_core.errors import InvalidValue

SOCKET = "fiskd.sock"


@dataclass(frozen=True, slots=True)
class Address:
    """``base`` is what requests go to; ``path`` that of the socket, None for TCP."""

    url: str
    base: str
    path: str | None = None
    token: str | None = None
    cacert: str | None = None


def default_url(home: Path | None = None) -> str:
    """Give the URL of the daemon of a home directory."""
    chosen = Home(home.absolute()) if home is not None else Home.default()
    return f"unix://{chosen.run / SOCKET}"


def resolve(
    url: str | None = None, token: str | None = None, cacert: str | None = None, home: Path | None = None
) -> Address:
    """Complete what was given; raises InvalidValue, also for a token that would travel unencrypted."""
    found = url or os.environ.get("FISK_URL") or default_url(home)
    token = token or os.environ.get("FISK_TOKEN") or None
    cacert = cacert or os.environ.get("FISK_CACERT") or None
    try:
        parts = urlsplit(found)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidValue(f"'{found}' is not a URL: {exc}") from None
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Address(found, f"http+unix://{quote(parts.path, safe='')}", parts.path, token, cacert)
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidValue(f"'{found}' is not the URL of a daemon; write unix:///PATH or https://HOST:PORT")
    if parts.scheme == "http" and token and not _is_loopback(host):
        raise InvalidValue(f"a token would travel to {host} unencrypted; use https")
    if cacert and not os.path.exists(cacert):
        raise InvalidValue(f"there is no file {cacert} with certificates")
    return Address(found, found.rstrip("/"), None, token, cacert)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

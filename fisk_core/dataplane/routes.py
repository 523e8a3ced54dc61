# SPDX-License-Identifier: Apache-2.0
"""Which worker serves the export of a name, for clients from the network.

A name is a secret token.  The file ``<directory>/<SHA-256 of the token>`` says who serves it, so neither the
directory nor how long a look into it takes tells anything about tokens that exist.  A checksum over its name
and all it says keeps a damaged file, or another's, from letting a client in to what is not his.
"""

import hashlib
import json
import logging
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from fisk_core.errors import from_oserror

LOG = logging.getLogger(__name__)
_MAX_FILE = 8192


@dataclass(frozen=True, slots=True)
class Route:
    """The control socket of a worker, and whether the client may only read."""

    control: str
    read_only: bool


def _path(directory: Path, token: bytes) -> Path:
    return directory / hashlib.sha256(token).hexdigest()


def find(directory: Path, token: bytes) -> Route | None:
    """Give the route of an export name, None for a name nobody gave out."""
    path = _path(directory, token)
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as exc:
        LOG.error("%s cannot be read: %s", path, exc.strerror)
        return None
    try:
        fields = json.loads(text)
        route = Route(str(fields["control"]), bool(fields["read_only"]))
        # One that a daemon of an earlier version wrote has these two fields and no others.
        if fields.keys() != {"control", "read_only"} and fields["crc32"] != _checksum(path.name, route):
            raise ValueError("it does not match its checksum")
        return route
    except (ValueError, KeyError, TypeError) as exc:
        LOG.error("%s is no route: %r", path, exc)
        return None


def publish(directory: Path, token: str, route: Route) -> None:
    """Let clients in under ``token``, whatever it meant before; raises PoolError."""
    path = _path(directory, token.encode())
    other = path.with_suffix(".new")
    try:
        with open(other, "w", opener=_private) as file:
            file.write(json.dumps({**asdict(route), "crc32": _checksum(path.name, route)}) + "\n")
        os.replace(other, path)
    except OSError as exc:
        raise from_oserror(exc, f"write {path}") from exc


def withdraw(directory: Path, token: str) -> None:
    """Let no further client in under ``token``; harmless when there is no such."""
    _path(directory, token.encode()).unlink(missing_ok=True)


def _checksum(name: str, route: Route) -> str:
    return f"{zlib.crc32(json.dumps([name, route.control, route.read_only]).encode()):08x}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

# SPDX-License-Identifier: Apache-2.0
"""``pool.json``: what makes a directory a pool.

::

    {"format": 1, "id": <uuid>, "name": …, "created": <UTC, ISO 8601>, "incompatible": [<feature>, …],
     "options": {…}, "crc32": <of the others as JSON with sorted keys, 8 hex digits>}

Its appearance is the one step that makes the pool: a crash before it leaves an empty directory (or a
temporary file in one), a crash after it a pool whose folders are made when it is next opened.  A pool
with an incompatible feature this version does not know is refused; unknown fields are ignored.  Earlier
versions wrote no ``crc32``; then there is nothing to compare.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fisk_core.errors import AlreadyExists, Corrupt, InvalidValue, NotFound, Unsupported
from fisk_core.pools import _files
from fisk_core.pools.base import is_id

HEADER = "pool.json"
FORMAT = 1
KNOWN_FEATURES: frozenset[str] = frozenset()
_MAX_SIZE = 1 << 20


class Header(NamedTuple):
    """What this version uses of the header."""

    id: str
    options: Mapping[str, Any]


def create_header(root: str, name: str, options: Mapping[str, Any]) -> None:
    """Make the empty directory ``root`` a pool, durably.

    Raises AlreadyExists if it is one, also when another process was faster; InvalidValue if it holds other
    files; nothing is changed then.  Raises OSError.
    """
    import time
    import uuid

    _check_vacant(root)
    header = {
        "format": FORMAT,
        "id": str(uuid.uuid4()),
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "incompatible": [],
        "options": dict(options),
    }
    header["crc32"] = _checksum(header)
    with _files.temporary(root) as (fd, path):
        _files.write_all(fd, json.dumps(header, indent=2).encode() + b"\n")
        os.fdatasync(fd)
        try:
            os.link(path, os.path.join(root, HEADER))  # unlike rename(2), only one of several succeeds
        except FileExistsError as exc:
            raise AlreadyExists(f"{root} is a pool already") from exc
    _files.sync_directory(root)


def record_options(root: str, options: Mapping[str, Any]) -> None:
    """Have the header record these options, durably and as a whole; whatever else is in it stays.

    Raises like ``read_header``, and NoSpace.
    """
    path = os.path.join(root, HEADER)
    data = _read(root)
    _parse(data, path)
    fields = json.loads(data)
    fields["options"] = {**fields["options"], **options}
    fields["crc32"] = _checksum(fields)
    _files.replace(path, [json.dumps(fields, indent=2).encode() + b"\n"], durable=True)


def read_header(root: str) -> Header:
    """Read and check the header.

    Raises NotFound if there is no pool, Corrupt for a damaged header, Unsupported for a newer one, OSError.
    """
    return _parse(_read(root), os.path.join(root, HEADER))


def _read(root: str) -> bytes:
    path = os.path.join(root, HEADER)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError as exc:
        missing = f"it has no {HEADER}" if os.path.isdir(root) else "there is no such directory"
        raise NotFound(f"{root} is not a pool: {missing}") from exc
    except NotADirectoryError as exc:
        raise InvalidValue(f"{root} is not a directory") from exc
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_SIZE)


def _check_vacant(root: str) -> None:
    """Accept what a fresh file system holds, and what a crash in the middle of a creation leaves."""
    others = [
        name for name in sorted(os.listdir(root)) if name != "lost+found" and not _files.is_temporary(name)
    ]
    # The header is looked for once more: a listing taken while another process makes the pool may miss it.
    if HEADER in others or os.path.lexists(os.path.join(root, HEADER)):
        raise AlreadyExists(f"{root} is a pool already")
    if others:
        raise InvalidValue(f"{root} is not empty (it holds {others[0]!r}); a pool needs its own directory")


def _checksum(fields: Mapping[str, Any]) -> str:
    body = json.dumps({key: value for key, value in fields.items() if key != "crc32"}, sort_keys=True)
    return f"{zlib.crc32(body.encode()):08x}"


def _parse(data: bytes, path: str) -> Header:
    try:
        fields = json.loads(data)
    except ValueError as exc:
        raise Corrupt(f"{path} is damaged: {exc}") from exc
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise Corrupt(f"{path} is damaged: it does not describe a pool")
    if "crc32" in fields and fields["crc32"] != _checksum(fields):
        raise Corrupt(f"{path} does not match its checksum")
    if fields["format"] != FORMAT:
        raise Unsupported(f"{path} has format {fields['format']}; this version reads format {FORMAT}")
    pool_id, features, options = fields.get("id"), fields.get("incompatible"), fields.get("options")
    if not isinstance(features, list) or not isinstance(options, dict) or not is_id(str(pool_id)):
        raise Corrupt(f"{path} is damaged: id, incompatible or options is missing")
    unknown = sorted(str(feature) for feature in features if feature not in KNOWN_FEATURES)
    if unknown:
        raise Unsupported(f"{path} uses {', '.join(unknown)}, which this version does not know")
    return Header(str(pool_id), options)

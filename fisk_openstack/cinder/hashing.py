# SPDX-License-Identifier: Apache-2.0
"""The hash of an image made of a volume, for a Glance that does not hash such images itself.

A hash that is known stays with the Fisk, and is known of whatever has the same content: an image of a volume
nothing was written to since it was made of an image is not read again.
"""

import hashlib
import io
import time
from typing import IO, Any, cast

from oslo_config import cfg

from fisk_core.client import RemoteEngine
from fisk_core.errors import NotFound
from fisk_core.model import Fisk

OPTIONS = [
    cfg.StrOpt(
        "fisk_image_hash",
        choices=["sha1", "sha256", "sha512"],
        help="Hash raw images made of volumes with this, and tell Glance: for one whose do_secure_hash is "
        "off; its hashing_algorithm must be the same. Unset, Glance reads such images itself, once they are "
        "active.",
    ),
]
HASH = "openstack.hash."
"""Beginning of the attribute of a frozen Fisk with its hash, as hexadecimal digits; the algorithm follows."""


class _Digest(io.RawIOBase):
    """A stream that only hashes."""

    def __init__(self, algorithm: str) -> None:
        self.digest = hashlib.new(algorithm)

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def write(self, data: Any) -> int:
        """Take some more."""
        self.digest.update(data)
        time.sleep(0)  # the service has other green threads
        return len(data)


def hash_of(engine: RemoteEngine, fisk: Fisk, algorithm: str) -> str:
    """Give the hash of a frozen Fisk as hexadecimal digits.

    It is read, unless what it was made of has the same content and a hash.
    """
    key = HASH + algorithm
    found = fisk.attributes.get(key) or _inherited(engine, fisk, key)
    if not found:
        stream = _Digest(algorithm)
        engine.download(fisk.id, cast(IO[bytes], stream))
        found = stream.digest.hexdigest()
    engine.set(fisk.id, attributes={key: found})
    return found


def _inherited(engine: RemoteEngine, fisk: Fisk, key: str) -> str | None:
    """Give the hash of the Fisk that the origin of ``fisk`` was made from, if nothing is different."""
    try:
        origin = engine.get(engine.get(fisk.parent_id or "").parent_id or "")
    except NotFound:
        return None
    known = origin.attributes.get(key)
    if known and origin.frozen and origin.size == fisk.size and not any(engine.diff(origin.id, fisk.id)):
        return known
    return None

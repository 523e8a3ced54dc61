# SPDX-License-Identifier: Apache-2.0
"""Where an image is: ``fisk://POOL/ID``.

The id alone finds the Fisk; the pool tells Glance which of its stores to ask.
"""

import uuid
from urllib.parse import quote, unquote

from glance_store import exceptions, location

SCHEME = "fisk"


def uri_of(pool: str, fisk_id: str) -> str:
    """Give the URI of a Fisk in a pool."""
    return f"{prefix_of(pool)}{fisk_id}"


def prefix_of(pool: str) -> str:
    """Give what the URIs of all images in a pool begin with."""
    return f"{SCHEME}://{quote(pool, safe='')}/"


class StoreLocation(location.StoreLocation):  # type: ignore[misc]  # glance_store carries no types
    """A location as Glance handles it."""

    def process_specs(self) -> None:
        """Take the parts that were given."""
        self.pool = self.specs.get("pool")
        self.fisk_id = self.specs.get("fisk_id")

    def get_uri(self) -> str:
        """Give the URI."""
        return uri_of(self.pool, self.fisk_id)

    def parse_uri(self, uri: str) -> None:
        """Take a URI apart; raises BadStoreUri."""
        self.validate_schemas(uri, valid_schemas=(f"{SCHEME}://",))
        pool, slash, own = uri.removeprefix(f"{SCHEME}://").partition("/")
        if not (pool and slash and _is_id(own)):
            raise exceptions.BadStoreUri(message=f"'{uri}' is not {SCHEME}://POOL/ID")
        self.pool, self.fisk_id = unquote(pool), own


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False

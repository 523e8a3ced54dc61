# SPDX-License-Identifier: Apache-2.0
"""The store: every image is a Fisk of raw blocks, made once at upload; volumes and servers are clones of it.

An image that is not raw is kept twice: as raw blocks, and, in a second Fisk, as the very bytes that were
uploaded, which are what a download gives.  The driver has no state but its connection, so one object serves
all requests.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from glance_store import capabilities, driver, exceptions
from oslo_utils import units

from fisk_core.errors import (
    AlreadyExists,
    FiskError,
    ImageRefused,
    InvalidValue,
    NoSpace,
    NotFound,
    Overloaded,
    Unavailable,
)
from fisk_core.model import Fisk
from fisk_core.services.importer import BYTES, ORIGINAL
from fisk_openstack import connection
from fisk_openstack.glance_store import ingest
from fisk_openstack.glance_store.hashing import HashedStream
from fisk_openstack.glance_store.location import SCHEME, StoreLocation, prefix_of, uri_of
from fisk_openstack.labels import READERS, Kind

LOG = logging.getLogger(__name__)
CHUNK = 4 * units.Mi

__all__ = ["Store", "StoreLocation"]  # Glance looks for both here


class Store(driver.Store):  # type: ignore[misc]  # glance_store carries no types
    """Images in one pool of the daemon on this host."""

    _CAPABILITIES = (
        capabilities.BitMasks.READ_RANDOM
        | capabilities.BitMasks.WRITE_ACCESS
        | capabilities.BitMasks.DRIVER_REUSABLE
    )
    OPTIONS = connection.OPTIONS
    EXAMPLE_URL = f"{SCHEME}://<POOL>/<FISK>"
    READ_CHUNKSIZE = CHUNK
    WRITE_CHUNKSIZE = CHUNK

    def get_schemes(self) -> tuple[str, ...]:
        """Give the schemes of our URIs."""
        return (SCHEME,)

    def configure_add(self) -> None:
        """Connect; raises BadStoreConfiguration."""
        if not self.backend_group:
            raise exceptions.BadStoreConfiguration(
                store_name=SCHEME, reason="name the store in [DEFAULT] enabled_backends, as in fisk:fisk"
            )
        settings = driver.BackendGroupConfiguration(self.OPTIONS, self.backend_group, conf=self.conf)
        try:
            self.engine = connection.connect(settings)
            self.pool = self.engine.pool(settings.fisk_pool).name
        except FiskError as problem:
            raise exceptions.BadStoreConfiguration(
                store_name=self.backend_group, reason=str(problem)
            ) from problem
        self._url_prefix = prefix_of(self.pool)

    @driver.back_compat_add  # type: ignore[untyped-decorator]
    @capabilities.check  # type: ignore[untyped-decorator]
    def add(
        self,
        image_id: str,
        image_file: Any,
        image_size: int,
        hashing_algo: str,
        context: Any = None,
        verifier: Any = None,
    ) -> tuple[str, int, str, str, dict[str, str]]:
        """Keep an image; gives (URI, bytes, MD5, hash, metadata).

        ``image_size`` 0 means that it is not known.  Raises Duplicate, StorageFull, Invalid.
        """
        stream = HashedStream(image_file, hashing_algo, verifier, image_size)
        with _errors():
            made = ingest.ingest(
                self.engine, stream, image_id, self.pool, getattr(context, "project_id", None)
            )
        uri = uri_of(self.pool, made.id)
        return uri, stream.length, stream.checksum, stream.digest, {"store": self.backend_group}

    @capabilities.check  # type: ignore[untyped-decorator]
    def get(
        self, location: Any, offset: int = 0, chunk_size: int | None = None, context: Any = None
    ) -> tuple[Iterator[bytes], int]:
        """Give (iterator over the bytes as uploaded from ``offset`` on, their number).

        ``chunk_size`` is how many are wanted, all by default.  Raises NotFound.
        """
        with _errors():
            fisk = self._uploaded(location)
        end = _length(fisk)
        if chunk_size is not None:
            end = max(offset, min(end, offset + chunk_size))
        return self._bytes(fisk, offset, end), end - offset

    def _bytes(self, fisk: Fisk, offset: int, end: int) -> Iterator[bytes]:
        if offset == end:
            return
        with _errors(), self.engine.open_disk(fisk.id) as disk:
            while offset < end:
                part = disk.read(offset, min(CHUNK, end - offset))
                yield part
                offset += len(part)

    def get_size(self, location: Any, context: Any = None) -> int:
        """Give the number of bytes as uploaded; raises NotFound."""
        with _errors():
            return _length(self._uploaded(location))

    @capabilities.check  # type: ignore[untyped-decorator]
    def delete(self, location: Any, context: Any = None) -> None:
        """Remove an image, whatever was made from it and whoever reads it; raises NotFound."""
        with _errors():
            ingest.remove(self.engine, self._image(location))

    @capabilities.check  # type: ignore[untyped-decorator]
    def set_acls(
        self,
        location: Any,
        public: bool = False,
        read_tenants: list[str] | None = None,
        write_tenants: list[str] | None = None,
        context: Any = None,
    ) -> None:
        """Note who may use the image, for people who look at Fisks; raises NotFound."""
        readers = "*" if public else ",".join(read_tenants or ()) or "-"
        with _errors():
            self.engine.set(self._image(location).id, attributes={READERS: readers})

    def _image(self, location: Any) -> Fisk:
        """Give the Fisk at a location; who may add locations must not reach volumes through them."""
        fisk = self.engine.get(location.store_location.fisk_id)
        if Kind.IMAGE.value not in fisk.attributes:
            raise NotFound(f"Fisk '{fisk.name}' is no image")
        return fisk

    def _uploaded(self, location: Any) -> Fisk:
        """Give the Fisk with the bytes as they were uploaded."""
        fisk = self._image(location)
        original = fisk.attributes.get(ORIGINAL)
        return self.engine.get(original) if original else fisk


def _length(fisk: Fisk) -> int:
    return int(fisk.attributes.get(BYTES, fisk.size))


@contextmanager
def _errors() -> Iterator[None]:
    """Say in Glance's words what went wrong."""
    try:
        yield
    except NotFound as problem:
        raise exceptions.NotFound(message=str(problem)) from problem
    except AlreadyExists as problem:
        raise exceptions.Duplicate(message=str(problem)) from problem
    except NoSpace as problem:
        raise exceptions.StorageFull(message=str(problem)) from problem
    except (ImageRefused, InvalidValue) as problem:
        raise exceptions.Invalid(message=str(problem)) from problem
    except (Overloaded, Unavailable) as problem:
        raise exceptions.RemoteServiceUnavailable(message=str(problem)) from problem
    except FiskError as problem:
        raise exceptions.BackendException(str(problem)) from problem

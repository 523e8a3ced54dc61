# SPDX-License-Identifier: Apache-2.0
"""How an upload becomes Fisks: raw blocks that volumes and servers are cloned from, and, of an image that is
not raw, a second one of the very bytes.

Both are made here and at once, so that the first clone is as quick as any other.  Nobody sees the image
before all of it is there.
"""

import io
from typing import IO, cast

from fisk_core.errors import AlreadyExists, NotFound
from fisk_core.model import Fisk
from fisk_core.protocol import Verbs
from fisk_core.services import formats
from fisk_core.services.importer import BYTES, ORIGINAL, import_image
from fisk_openstack.glance_store.hashing import HashedStream
from fisk_openstack.labels import READERS, Kind, fisk_id, fisk_name, labels

_SECTOR = 512


def ingest(engine: Verbs, stream: HashedStream, image_id: str, pool: str, project: str | None) -> Fisk:
    """Make the Fisk of an image in a pool; raises AlreadyExists and what ``import_image`` raises."""
    own, name = _place(engine, image_id, pool)
    # What is encrypted is data like any other to us; every other format is found out.
    head = stream.head(formats.HEAD)
    if not head:  # Nova's image of a server on volumes says which snapshots there are, and has no data
        return import_image(
            engine,
            io.BytesIO(bytes(_SECTOR)),
            name,
            format=formats.RAW,
            pool=pool,
            attributes={**labels(Kind.IMAGE, image_id, project=project), BYTES: "0"},
            id=own,
        )
    is_encrypted = formats.detect(head) == "luks"
    return import_image(
        engine,
        cast(IO[bytes], stream),
        name,
        format=formats.RAW if is_encrypted else None,
        pool=pool,
        attributes=labels(Kind.IMAGE, image_id, project=project),
        twin=labels(Kind.ORIGINAL, image_id, project=project),
        id=own,
    )


def _place(engine: Verbs, image_id: str, pool: str) -> tuple[str, str]:
    """Give (id, name) for the image in this pool; another store may have it in another pool."""
    if engine.list(attributes={Kind.IMAGE.value: image_id}, pool=pool):
        raise AlreadyExists(f"image {image_id} is in pool {pool} already")
    try:
        engine.get(fisk_id(Kind.IMAGE, image_id))
    except NotFound:
        own = image_id
    else:
        own = f"{image_id}@{pool}"
    return fisk_id(Kind.IMAGE, own), fisk_name(Kind.IMAGE, own)


def remove(engine: Verbs, fisk: Fisk) -> None:
    """Remove an image and its bytes as uploaded, whatever was made from it and whoever reads it now.

    A volume that was made of the very image by adopting it stays, and is no image any more.
    """
    if any(kind.value in fisk.attributes for kind in Kind if kind is not Kind.IMAGE):
        engine.set(fisk.id, attributes={Kind.IMAGE.value: None, READERS: None, ORIGINAL: None})
    else:
        engine.delete(fisk.id, force=True)
    for each in engine.list(attributes={Kind.ORIGINAL.value: fisk.attributes[Kind.IMAGE.value]}):
        if each.id == fisk.attributes.get(ORIGINAL):
            engine.delete(each.id, force=True)

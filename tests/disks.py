# SPDX-License-Identifier: Apache-2.0
"""Disks made by hand on a pool, without an engine: for tests of the map and the data path alone."""

import uuid

from fisk_core.blockmap import Geometry, LogHeader, create_log
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.pools import Pool, create_pool

TINY = Geometry(512, 2048)
"""4 blocks in a page, 2 MiB in a segment: borders are hit by little data."""
USUAL = Geometry(4096, 4 << 20)


def make_pool(path, name: str = "pool") -> Pool:
    return create_pool("file", name, {"path": str(path)})


def new_id() -> str:
    return str(uuid.uuid4())


def make_spec(
    pool: Pool, size: int, geometry: Geometry = TINY, base: str | None = None, base_size: int | None = None
) -> DiskSpec:
    """Begin a period on ``base`` and give the spec that writes it."""
    map_id, fisk_id = new_id(), new_id()
    create_log(pool, LogHeader(map_id, base, fisk_id, size if base_size is None else base_size, geometry))
    return DiskSpec(
        fisk_id=fisk_id,
        name="test",
        size=size,
        block_size=geometry.block_size,
        page_size=geometry.page_size,
        map_id=map_id,
        read_only=False,
        pool=pool.spec(),
    )


def make_disk(pool: Pool, size: int, geometry: Geometry = TINY) -> Disk:
    return Disk.open(pool, make_spec(pool, size, geometry))


def frozen(spec: DiskSpec) -> DiskSpec:
    """Give the spec that reads the same map."""
    from dataclasses import replace

    return replace(spec, read_only=True)

# SPDX-License-Identifier: Apache-2.0
"""Where bytes are: a picture of a Fisk's map, and what the layers of a pool take."""

from typing import Annotated

from fastapi import Query

from fisk_core import errors
from fisk_core.api.identity import READER
from fisk_core.api.models import NameInPath, RefInPath
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.services import picture, space

router = Operations("looking")


@router.operation(
    "GET", "/fisks/{ref}/map", rule="fisks:get", role=READER, gives=picture.Picture, may=(errors.NotFound,)
)
def get_map(
    services: Given,
    ref: RefInPath,
    buckets: Annotated[int, Query(ge=1, le=picture.MAX_BUCKETS, description="equal parts, at most")] = 256,
) -> picture.Picture:
    """Give a picture of a Fisk's map: which layers own how much of each of its parts.

    What was not flushed yet does not show.
    """
    return picture.picture(services.engine, services.engine.find(ref), buckets)


@router.operation(
    "GET",
    "/pools/{name}/space",
    rule="pools:list",
    role=READER,
    gives=space.PoolSpace,
    may=(errors.NotFound,),
)
def get_pool_space(services: Given, name: NameInPath) -> space.PoolSpace:
    """Measure what the layers of a pool take, and how much of that may be garbage.

    Looks at every layer; ask every few seconds at most.
    """
    return space.pool_space(services.engine, name, services.high_water)

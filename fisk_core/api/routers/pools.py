# SPDX-License-Identifier: Apache-2.0
"""Pools: made, listed, asked how full they are."""

from dataclasses import dataclass

from fisk_core import errors
from fisk_core.api.identity import ADMIN, READER
from fisk_core.api.models import Body, Name, NameInPath, Options
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.model import PoolInfo

router = Operations("pools")


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools, in the order in which they were made."""

    pools: list[PoolInfo]


class NewPool(Body):
    """A pool; a ``file`` pool without the option ``path`` goes into the home directory."""

    name: Name
    driver: Name = "file"
    options: Options | None = None


@router.operation("GET", "/pools", rule="pools:list", role=READER, gives=Pools)
def list_pools(services: Given) -> Pools:
    """List the pools, with what their media hold."""
    return Pools(services.engine.pools())


@router.operation(
    "POST",
    "/pools",
    rule="pools:create",
    role=ADMIN,
    gives=PoolInfo,
    status=201,
    may=(errors.AlreadyExists, errors.NotFound, errors.NoSpace),
)
def create_pool(services: Given, new: NewPool) -> PoolInfo:
    """Make a pool."""
    return services.engine.create_pool(new.name, new.driver, new.options)


@router.operation(
    "GET", "/pools/{name}", rule="pools:list", role=READER, gives=PoolInfo, may=(errors.NotFound,)
)
def get_pool(services: Given, name: NameInPath) -> PoolInfo:
    """Show a pool."""
    return services.engine.pool(name)

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


class PoolChange(Body):
    """Options of a pool to be others from now on; those that are not named stay."""

    options: Options


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


@router.operation(
    "PATCH",
    "/pools/{name}",
    rule="pools:change",
    role=ADMIN,
    gives=PoolInfo,
    may=(errors.NotFound, errors.NoSpace),
)
def change_pool(services: Given, name: NameInPath, change: PoolChange) -> PoolInfo:
    """Change options of a pool, for what opens it from now on; some are decided when it is made."""
    return services.engine.set_pool(name, change.options)

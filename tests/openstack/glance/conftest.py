# SPDX-License-Identifier: Apache-2.0
"""A Glance of the tests' own, with two stores."""

from collections.abc import Iterator

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_core.errors import NotFound
from tests.openstack.glance.apis import SECOND, Api


@pytest.fixture(scope="session")
def second_pool(engine: RemoteEngine) -> str:
    """A second pool, which stays: pools are made once."""
    try:
        return engine.pool(SECOND).name
    except NotFound:
        folder = engine.pool("default").options["path"].rpartition("/")[0]
        return engine.create_pool(SECOND, options={"path": f"{folder}/{SECOND}"}).name


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory, cloud: Connection, second_pool: str) -> Iterator[Api]:
    """Glance with the stores ``fisk`` and ``other``, which shows nobody where images are."""
    with Api(tmp_path_factory.mktemp("glance"), cloud) as found:
        yield found

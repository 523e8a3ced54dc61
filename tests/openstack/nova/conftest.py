# SPDX-License-Identifier: Apache-2.0
"""Servers for tests, one at a time: they share two processors with the cloud."""

from collections.abc import Callable
from pathlib import Path

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from tests.openstack.nova.servers import MICROVERSION, Boot

TIMEOUT = 900
"""Seconds a test may take: guests are emulated, and start several times."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this directory more time than others have."""
    for each in items:
        if Path(__file__).parent in each.path.parents:
            each.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture
def boot(cloud: Connection, engine: RemoteEngine, later: Callable[..., None]) -> Boot:
    """Makes servers that are gone after the test."""
    cloud.compute.default_microversion = MICROVERSION
    return Boot(cloud, engine, later)

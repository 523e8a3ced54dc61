# SPDX-License-Identifier: Apache-2.0
"""Servers for tests, one at a time: they share two processors with the cloud."""

from collections.abc import Callable

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from tests.openstack.nova.servers import MICROVERSION, Boot


@pytest.fixture
def boot(cloud: Connection, engine: RemoteEngine, later: Callable[..., None]) -> Boot:
    """Makes servers that are gone after the test."""
    cloud.compute.default_microversion = MICROVERSION
    return Boot(cloud, engine, later)

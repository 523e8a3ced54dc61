# SPDX-License-Identifier: Apache-2.0
"""A Fisk to connect, and os-brick told where the daemon is."""

from collections.abc import Iterator

import pytest
from os_brick import privileged

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack.brick.registration import register
from tests.openstack.cloud import MIB, daemon_url, unique


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    """What a service does when it starts; privileged calls are made in this process."""
    privileged.default.set_client_mode(False)
    register(lambda: RemoteEngine.open(daemon_url()))


@pytest.fixture
def fisk(engine: RemoteEngine) -> Iterator[Fisk]:
    """A Fisk of 64 MiB."""
    made = engine.create(unique("brick"), 64 * MIB)
    yield made
    engine.delete(made.id, force=True)

# SPDX-License-Identifier: Apache-2.0
"""Both sides compared, in this process: the command is tried in one test only."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from openstack.connection import Connection

from fisk_core.client import RemoteEngine
from fisk_openstack.cloud import Cloud
from fisk_openstack.reconcile import Finding, compare, repair, survey
from fisk_openstack.reconcile.repair import require_right_cloud
from tests.openstack.glance.conftest import api, second_pool

__all__ = ["Reconcile", "api", "reconcile", "second_pool"]
Reconcile = Callable[..., list[Finding]]


@pytest.fixture
def reconcile(cloud: Connection, engine: RemoteEngine) -> Reconcile:
    """Gives what does not agree of resources with these ids; puts it right if asked to."""

    def findings(*ids: str, mend: bool = False, grace: float = 0, any_project: bool = False) -> list[Finding]:
        asked = Cloud(cloud)
        seen = survey(engine, asked, timedelta(seconds=grace), any_project=any_project)
        found = compare(seen, asked, ids)
        if not mend:
            return found
        require_right_cloud(seen, asked, only_region=False)
        return list(repair(engine, found))

    return findings

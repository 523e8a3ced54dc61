# SPDX-License-Identifier: Apache-2.0
"""What several of these tests begin with."""

import pytest

from tests.hosts import configure_hosts, two_hosts


@pytest.fixture
def homes(home):
    """Give the homes of two hosts that share a catalog."""
    return configure_hosts(home)


@pytest.fixture
def hosts(homes):
    """Give (engine, supervisor) of both."""
    with two_hosts(homes) as found:
        yield found

# SPDX-License-Identifier: Apache-2.0
"""Makes the connector known to os-brick, and to the connector how it reaches the daemon of its host.

os-brick has no entry points: what it knows is in two tables of a module.  A service registers before the
first connection is made, so nothing of os-brick has to be changed.
"""

from collections.abc import Callable
from functools import cache

from os_brick.initiator import connector

from fisk_core.client import RemoteEngine

PROTOCOL = "FISK"
CONNECTOR = "fisk_openstack.brick.connector.FiskConnector"

_connect: Callable[[], RemoteEngine] = RemoteEngine.open


def register(connect: Callable[[], RemoteEngine] | None = None) -> None:
    """Have os-brick connect volumes of the protocol ``fisk``, through the daemon ``connect`` gives.

    Without it, the daemon is where the environment says.  Harmless when done again.
    """
    global _connect
    if connect is not None:
        _connect = connect
        engine.cache_clear()
    if CONNECTOR not in connector.unix_connector_list:
        connector.unix_connector_list.append(CONNECTOR)
    for arch in ("x86_64", "s390x", "ppc64"):
        connector.get_connector_mapping(arch)[PROTOCOL] = CONNECTOR


@cache
def engine() -> RemoteEngine:
    """Give the daemon of this host; raises InvalidValue."""
    return _connect()

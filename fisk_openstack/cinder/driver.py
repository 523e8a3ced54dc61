# SPDX-License-Identifier: Apache-2.0
"""The volume driver: ``volume_driver = fisk_openstack.cinder.driver.FiskDriver``."""

from cinder import interface
from cinder.volume import driver

from fisk_core import __version__
from fisk_openstack.cinder.encryption import Encryption
from fisk_openstack.cinder.groups import Groups
from fisk_openstack.cinder.iscsi import Targets
from fisk_openstack.cinder.managing import Managing
from fisk_openstack.cinder.migrating import Migrating
from fisk_openstack.cinder.stats import Stats


@interface.volumedriver
class FiskDriver(
    Encryption,
    Targets,
    Groups,
    Managing,
    Migrating,
    Stats,
    driver.CloneableImageVD,  # type: ignore[misc]  # Cinder carries no types
    driver.MigrateVD,  # type: ignore[misc]  # Cinder carries no types
    driver.ManageableVD,  # type: ignore[misc]  # Cinder carries no types
):
    """Volumes as Fisks of one pool.

    Nothing is kept in this process, and the daemon orders what several ask of it at once: any number of
    volume services may serve one pool as a cluster.  Volumes are not replicated.
    """

    VERSION = __version__
    CI_WIKI_NAME = "Fisk_CI"
    SUPPORTS_ACTIVE_ACTIVE = True

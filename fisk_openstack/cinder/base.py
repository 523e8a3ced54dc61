# SPDX-License-Identifier: Apache-2.0
"""What all parts of the driver stand on: the connection, and which Fisk is which object of Cinder."""

from typing import Any

from cinder.volume import configuration, driver

from fisk_core.client import RemoteEngine
from fisk_core.model import Fisk
from fisk_openstack import connection
from fisk_openstack.brick import registration
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.labels import Kind, find, fisk_name, labels, search

GIB = 1 << 30


class Base(driver.BaseVD):  # type: ignore[misc]  # Cinder carries no types
    """The daemon, and the Fisks of volumes and snapshots."""

    engine: RemoteEngine
    protocol = "fisk"
    """how hosts are told to connect: the name of their connector"""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(connection.OPTIONS)
        self.pool = self.configuration.fisk_pool

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Give the options for configuration references."""
        return connection.OPTIONS

    def do_setup(self, context: Any) -> None:
        """Connect, also for os-brick in this process."""
        with cinder_errors():
            self.engine = connection.connect(self.configuration)
        registration.register(lambda: self.engine)

    def check_for_setup_error(self) -> None:
        """Raise VolumeBackendAPIException unless daemon and pool answer."""
        with cinder_errors():
            self.engine.pool(self.pool)

    def _volume(self, volume: Any) -> Fisk:
        """Give the Fisk of a volume; raises NotFound."""
        return find(self.engine, Kind.VOLUME, volume.name_id)

    def _snapshot(self, snapshot: Any) -> Fisk:
        """Give the Fisk of a snapshot; raises NotFound."""
        return find(self.engine, Kind.SNAPSHOT, snapshot.id)

    def _search(self, kind: Kind, own: str) -> Fisk | None:
        """Give a Fisk, None when there is none; also one that was made and did not come to its attributes."""
        found = search(self.engine, kind, own)
        return found or next(iter(self.engine.list(name=fisk_name(kind, own))), None)

    def _remove(self, kind: Kind, own: str) -> None:
        """Delete a Fisk; one that is not there is deleted already."""
        found = self._search(kind, own)
        if found is not None:
            self.engine.delete(found.id)


def volume_labels(volume: Any) -> dict[str, str]:
    """Give the attributes of a volume's Fisk."""
    return labels(Kind.VOLUME, volume.name_id, name=volume.display_name, project=volume.project_id)


def snapshot_labels(snapshot: Any) -> dict[str, str]:
    """Give the attributes of a snapshot's Fisk."""
    return labels(Kind.SNAPSHOT, snapshot.id, name=snapshot.display_name, project=snapshot.project_id)


def register() -> None:
    """Make the options known to every section that names this driver."""
    configuration.CONF.register_opts(connection.OPTIONS, group=configuration.SHARED_CONF_GROUP)


register()

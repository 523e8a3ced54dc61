# SPDX-License-Identifier: Apache-2.0
"""How hosts get at volumes: they are told which Fisk it is, and attach it through the daemon of their own."""

from typing import Any

from cinder import exception

from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.images import Images


class Attaching(Images):
    """Exports and connections.  A volume needs no export: any daemon that has its pool can attach it."""

    def ensure_export(self, context: Any, volume: Any) -> None:
        """There is nothing to do."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """There is nothing to do."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """There is nothing to do."""

    def validate_connector(self, connector: dict[str, Any]) -> None:
        """Raise InvalidConnectorException for a host that does not say who it is."""
        if "host" not in connector:
            raise exception.InvalidConnectorException(missing="host")

    def initialize_connection(self, volume: Any, connector: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Say which Fisk the volume is."""
        with cinder_errors(volume.id):
            return self._connection(self._volume(volume).id, volume.id, read_only=False)

    def initialize_connection_snapshot(
        self, snapshot: Any, connector: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """Say which Fisk the snapshot is."""
        with cinder_errors(snapshot.volume_id):
            return self._connection(self._snapshot(snapshot).id, snapshot.id, read_only=True)

    def _connection(self, fisk: str, own: str, *, read_only: bool) -> dict[str, Any]:
        data = {
            "fisk_id": fisk,
            "volume_id": own,
            "discard": True,
            "access_mode": "ro" if read_only else "rw",
        }
        return {"driver_volume_type": self.protocol, "data": data}

    def terminate_connection(self, volume: Any, connector: Any, **kwargs: Any) -> bool:
        """Nothing is left to do: the host has detached it.  Gives whether others share what it had."""
        return False

    def terminate_connection_snapshot(self, snapshot: Any, connector: Any, **kwargs: Any) -> None:
        """The same for a snapshot."""

    def create_export_snapshot(self, context: Any, snapshot: Any, connector: Any) -> None:
        """There is nothing to do."""

    def remove_export_snapshot(self, context: Any, snapshot: Any) -> None:
        """There is nothing to do."""

    def backup_use_temp_snapshot(self) -> bool:
        """A backup reads a snapshot, which can be attached as it is."""
        return True

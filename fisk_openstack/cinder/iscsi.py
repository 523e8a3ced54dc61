# SPDX-License-Identifier: Apache-2.0
"""Volumes as iSCSI targets, for hosts that have no daemon of Fisk: ``fisk_target_protocol = iscsi``.

The daemon beside the volume service makes a target for each volume that somebody wants to connect, and
removes it after the last.  Initiators always have to know a user and a password, which Cinder hands them.
"""

import uuid
from typing import Any
from urllib.parse import unquote, urlsplit

from cinder import exception
from cinder.volume import configuration, volume_utils
from oslo_config import cfg

from fisk_core.model import Access, Attachment, Fisk
from fisk_openstack.cinder.attaching import Attaching
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.labels import Kind

ISCSI = "iscsi"
OURS = "fisk"
OPTIONS = [
    cfg.StrOpt(
        "fisk_target_protocol",
        default=OURS,
        choices=[
            (OURS, "hosts attach volumes through a daemon of their own"),
            (ISCSI, "the daemon beside the volume service makes targets for hosts without one"),
        ],
        help="How hosts get at volumes. Targets listen on target_ip_address and target_port.",
    ),
]
_NAMESPACE = uuid.UUID("5f15c0de-0000-4000-8000-0f15c0000004")


class Targets(Attaching):
    """Exports and connections of a back end that speaks iSCSI; any other is as it was."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)
        self.protocol = self.configuration.fisk_target_protocol

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Give the options for configuration references."""
        return [*Attaching.get_driver_options(), *OPTIONS]

    @property
    def _speaks_iscsi(self) -> bool:
        return bool(self.protocol == ISCSI)

    def validate_connector(self, connector: dict[str, Any]) -> None:
        """Raise InvalidConnectorException for a host without an initiator."""
        super().validate_connector(connector)
        if self._speaks_iscsi and "initiator" not in connector:
            raise exception.InvalidConnectorException(missing="initiator")

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """Make the target of a volume."""
        if self._speaks_iscsi:
            with cinder_errors(volume.id):
                self._export(self._volume(volume), read_only=False)

    def create_export_snapshot(self, context: Any, snapshot: Any, connector: Any) -> None:
        """Make the target of a snapshot."""
        if self._speaks_iscsi:
            with cinder_errors(snapshot.volume_id):
                self._export(self._snapshot(snapshot), read_only=True)

    def remove_export(self, context: Any, volume: Any) -> None:
        """Remove the target of a volume; one that is not there is removed already."""
        if self._speaks_iscsi:
            with cinder_errors(volume.id):
                self._unexport(self._search(Kind.VOLUME, volume.name_id))

    def remove_export_snapshot(self, context: Any, snapshot: Any) -> None:
        """The same for a snapshot."""
        if self._speaks_iscsi:
            with cinder_errors(snapshot.volume_id):
                self._unexport(self._search(Kind.SNAPSHOT, snapshot.id))

    def terminate_connection(self, volume: Any, connector: Any, **kwargs: Any) -> bool:
        """Say whether others are still connected to the target of a volume."""
        attached = [each for each in volume.volume_attachment or () if each.connector]
        return self._speaks_iscsi and len(attached) > 1

    def _connection(self, fisk: str, own: str, *, read_only: bool) -> dict[str, Any]:
        found = super()._connection(fisk, own, read_only=read_only)
        if self._speaks_iscsi:
            del found["data"]["fisk_id"]
            found["data"] |= login(self._export(self.engine.get(fisk), read_only=read_only))
        return found

    def _export(self, fisk: Fisk, *, read_only: bool) -> Attachment:
        """Give the target of a Fisk, made before or now; raises MissingTool, InUse."""
        host = volume_utils.sanitize_host(self.configuration.target_ip_address)
        return self.engine.attach(
            fisk.id,
            read_only=read_only,
            access=Access.ISCSI,
            consumer="cinder-volume: iSCSI",
            id=_attachment_id(fisk),
            options={"portal": f"{host}:{self.configuration.target_port}", "chap": True},
        )

    def _unexport(self, fisk: Fisk | None) -> None:
        if fisk is not None:
            # Initiators stay logged in for a while after they have let go of a volume.
            self.engine.detach(_attachment_id(fisk), force=True)


def _attachment_id(fisk: Fisk) -> str:
    return str(uuid.uuid5(_NAMESPACE, fisk.id))


def login(attachment: Attachment) -> dict[str, Any]:
    """Give what an initiator must know, in os-brick's words, of ``iscsi://USER%PASSWORD@HOST:PORT/IQN/LUN``."""
    parts = urlsplit(attachment.path or "")
    secret, _, portal = parts.netloc.rpartition("@")
    user, _, password = secret.partition("%")
    target, _, lun = parts.path.strip("/").partition("/")
    found: dict[str, Any] = {
        "target_discovered": False,
        "target_portal": portal,
        "target_iqn": unquote(target),
        "target_lun": int(lun),
    }
    if user:
        found |= {"auth_method": "CHAP", "auth_username": user, "auth_password": password}
    return found


configuration.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)

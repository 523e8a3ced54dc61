# SPDX-License-Identifier: Apache-2.0
"""Servers that move to another host while they run.

What Nova calls, and on which host (S: the source, D: the destination):

1. D ``check_can_live_migrate_destination``, S ``check_can_live_migrate_source``: nothing is made yet;
2. D ``pre_live_migration``: disks and volumes are attached, and wait for their turn;
3. S ``get_updated_guest_xml``: the guest's configuration for D, where its disks have other addresses;
4. the guest moves.  Its first write on D takes a Fisk over;
5. S ``post_live_migration``: what S has attached ends; D ``post_live_migration_at_destination``: what was not
   written yet is taken over.

When it fails before the guest has moved: S ``rollback_live_migration_at_source`` ends what waits on D, and D
``rollback_live_migration_at_destination`` what it made of that; Nova calls the second only where hosts do not
share the directory of instances.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from lxml import etree
from nova import exception
from oslo_log import log as logging

from fisk_core.errors import FiskError
from fisk_core.model import Attachment
from fisk_openstack.nova_imagebackend import daemon, guests, paths

LOG = logging.getLogger(__name__)


class Migrating:
    """Part of the compute driver."""

    _release: Callable[[str], None]

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Any,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool = False,
        disk_over_commit: bool = False,
    ) -> Any:
        """Refuse where the disks are not to be had: the daemon of this host may use another catalog."""
        if instance.image_ref and "disk" not in daemon.disks(instance.uuid):
            raise exception.MigrationPreCheckError(
                reason="the daemon of the destination does not know the disks of the server"
            )
        return super().check_can_live_migrate_destination(  # type: ignore[misc]  # of Nova's driver
            context, instance, src_compute_info, dst_compute_info, block_migration, disk_over_commit
        )

    def check_can_live_migrate_source(
        self, context: Any, instance: Any, dest_check_data: Any, block_device_info: Any = None
    ) -> Any:
        """Refuse where a volume is shared with other servers: only one host writes a Fisk.

        What waits somewhere is of an attempt that nova-compute did not live to end.
        """
        _expect_no_more(instance.uuid)
        users = Counter(each.fisk_id for each in daemon.engine().attachments() if not each.incoming)
        shared = [each.fisk_id for each in daemon.used(instance.uuid) if users[each.fisk_id] > 1]
        if shared:
            raise exception.MigrationPreCheckError(
                reason=f"Fisk {shared[0]} is used by other servers, too, and one host at a time writes it"
            )
        return super().check_can_live_migrate_source(  # type: ignore[misc]
            context, instance, dest_check_data, block_device_info
        )

    def pre_live_migration(
        self,
        context: Any,
        instance: Any,
        block_device_info: Any,
        network_info: Any,
        disk_info: Any,
        migrate_data: Any,
    ) -> Any:
        """Have all disks here, waiting for their turn; Nova has the volumes connected."""
        try:
            for name, fisk_id in daemon.disks(instance.uuid).items():
                if daemon.elsewhere(fisk_id):
                    self._expect(instance.uuid, name, fisk_id)
            return super().pre_live_migration(  # type: ignore[misc]
                context, instance, block_device_info, network_info, disk_info, migrate_data
            )
        except BaseException:
            self._release(instance.uuid)
            raise

    def _expect(self, server: str, name: str, fisk_id: str) -> None:
        found = daemon.attach(fisk_id, server, guests.access(), incoming=True)
        if found.path:
            paths.link(paths.path_of(f"{server}/{name}"), found.path)

    def post_live_migration(
        self, context: Any, instance: Any, block_device_info: Any, migrate_data: Any = None
    ) -> None:
        """End what this host has attached for the server, which has left."""
        super().post_live_migration(context, instance, block_device_info, migrate_data)  # type: ignore[misc]
        self._release(instance.uuid)

    def post_live_migration_at_destination(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_migration: bool = False,
        block_device_info: Any = None,
    ) -> None:
        """Take over what the guest has not written to yet."""
        for each in daemon.used(instance.uuid):
            if each.incoming:
                self._take_over(each, instance)
        super().post_live_migration_at_destination(  # type: ignore[misc]
            context, instance, network_info, block_migration, block_device_info
        )

    @staticmethod
    def _take_over(attachment: Attachment, instance: Any) -> None:
        try:
            daemon.engine().promote(attachment.id)
        except FiskError:
            # The guest is here, whatever we say.  What it reads is right, and its first write tries again.
            LOG.exception("Fisk %s is not taken over yet", attachment.fisk_id, instance=instance)

    def rollback_live_migration_at_source(self, context: Any, instance: Any, migrate_data: Any) -> None:
        """End what waits on the other host."""
        _expect_no_more(instance.uuid)
        super().rollback_live_migration_at_source(context, instance, migrate_data)  # type: ignore[misc]

    def rollback_live_migration_at_destination(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        """End what waits here; the disks are those of the source, whatever Nova says."""
        super().rollback_live_migration_at_destination(  # type: ignore[misc]
            context, instance, network_info, block_device_info, False, migrate_data
        )


def _expect_no_more(server: str) -> None:
    for each in daemon.expected(server):
        daemon.engine().detach(each.id, force=True)


def updating(stock: Callable[..., str]) -> Callable[..., str]:
    """Wrap ``get_updated_guest_xml``: disks and volumes that wait on the destination have its addresses."""

    def get_updated_guest_xml(
        instance: Any, guest: Any, migrate_data: Any, get_volume_config: Any, *args: Any, **kwargs: Any
    ) -> str:
        xml = stock(instance, guest, migrate_data, get_volume_config, *args, **kwargs)
        expected = {each.fisk_id: each for each in daemon.expected(instance.uuid)}
        if not expected:
            return xml
        places = _Places(instance.uuid, migrate_data)
        document = etree.fromstring(xml)
        for disk in document.iterfind("./devices/disk"):
            fisk_id, path = places.of(disk)
            if fisk_id in expected:
                guests.repoint(disk, expected[fisk_id], path)
        return str(etree.tostring(document, encoding="unicode"))

    return get_updated_guest_xml


class _Places:
    """Which Fisks the disks of a guest's configuration are."""

    def __init__(self, server: str, migrate_data: Any) -> None:
        self._disks = daemon.disks(server)
        self._used = daemon.used(server)
        self._names = {fisk_id: paths.path_of(f"{server}/{name}") for name, fisk_id in self._disks.items()}
        infos = {each.serial: each.connection_info for each in migrate_data.bdms}
        self._volumes = {
            serial: info["data"] for serial, info in infos.items() if info["driver_volume_type"] == "fisk"
        }

    def of(self, disk: Any) -> tuple[str, str]:
        """Give the id of a disk's Fisk, and the path at which a guest finds a device of it; else ("", "")."""
        serial, source = disk.findtext("serial"), disk.find("source")
        if serial in self._volumes:
            data = self._volumes[serial]
            return data["fisk_id"], data.get("device_path", "")
        if source is None:
            return "", ""
        device = source.get("dev") or source.get("file")
        if paths.is_ours(device):
            fisk_id = self._disks.get(paths.own_of(device).partition("/")[2], "")
            return fisk_id, device
        if source.get("protocol") == "nbd" and source.get("name"):
            return self._named(source.get("name"))
        return "", ""

    def _named(self, export: str) -> tuple[str, str]:
        """Find a disk by the export that the daemon of this host serves it as."""
        for each in self._used:
            if any(uri.endswith(f"/{export}") for uri in each.uris):
                return each.fisk_id, self._names.get(each.fisk_id, "")
        return "", ""

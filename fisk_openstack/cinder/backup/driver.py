# SPDX-License-Identifier: Apache-2.0
"""The backup driver: what Cinder asks of it, and which of its places does it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cinder import exception, interface
from cinder.backup.driver import BackupDriver
from cinder.objects.fields import BackupStatus
from oslo_log import log
from oslo_utils import strutils

from fisk_core.errors import FiskError, NotFound
from fisk_core.model import Fisk
from fisk_openstack import connection
from fisk_openstack.brick.registration import register
from fisk_openstack.cinder.backup.directory import DirectoryTarget
from fisk_openstack.cinder.backup.options import CONF, OPTIONS
from fisk_openstack.cinder.backup.pool import PoolTarget
from fisk_openstack.cinder.backup.target import Order, Own, Target, Watch
from fisk_openstack.cinder.bases import Kept
from fisk_openstack.labels import Kind, labels

LOG = log.getLogger(__name__)
VOLUME = "openstack.backup.volume"
"""Attribute of a backup: the id of the volume."""
_LOOK_SECONDS = 5.0


@interface.backupdriver
class FiskBackupDriver(BackupDriver):  # type: ignore[misc]  # Cinder carries no types
    """Backups in pools, and in directories."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.engine = connection.connect(CONF)
        self.support_force_delete = True
        # The volumes to be backed up come to us through os-brick.
        register(lambda: connection.connect(CONF))

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Give the options for configuration references."""
        return [*connection.OPTIONS, *OPTIONS]

    def check_for_setup_error(self) -> None:
        """Raise InvalidConfigurationValue unless daemon and default container answer."""
        with _errors():
            self._target(None)

    def backup(self, backup: Any, volume_file: Any, backup_metadata: bool = True) -> dict[str, Any]:
        """Make a backup; gives what to note in its record."""
        with _errors():
            target = self._target(backup.container)
            backup.container = backup.container or self._container()
            backup.save()  # whoever deletes it has to know where it is, however far this comes
            copied = target.keep(self._order(backup, backup_metadata), self._source(volume_file))
        LOG.info("Backup %s copied %s bytes", backup.id, copied)
        return {"parent_id": None} if backup.parent_id and self._independent(backup) else {}

    def _order(self, backup: Any, with_metadata: bool) -> Order:
        own = labels(Kind.BACKUP, backup.id, name=backup.display_name, project=backup.project_id)
        return Order(
            own=_own(backup),
            labels=own | {VOLUME: backup.volume_id},
            metadata=self.get_metadata(backup.volume_id) if with_metadata else "",
            parent_id=backup.parent_id,
            watch=_watch(backup, BackupStatus.CREATING),
        )

    def _source(self, volume_file: Any) -> Fisk | Any:
        """Give the Fisk that is backed up; what is none, as it is."""
        own = getattr(volume_file, "fisk_id", None)
        return volume_file if own is None else self.engine.get(own)

    def _independent(self, backup: Any) -> bool:
        wish = (backup.metadata or {}).get("independent")
        return bool(strutils.bool_from_string(wish, default=CONF.fisk_backup_independent))

    def restore(self, backup: Any, volume_id: str, volume_file: Any, volume_is_new: bool) -> None:
        """Give a volume what a backup holds."""
        watch = _watch(backup, BackupStatus.RESTORING, volume_id)
        with _errors():
            volume = self._source(volume_file)
            metadata = self._target(backup.container).restore(
                _own(backup),
                volume if isinstance(volume, Fisk) else None,
                volume_file,
                clean=volume_is_new,
                watch=watch,
            )
        if metadata:
            self.put_metadata(volume_id, metadata)

    def delete_backup(self, backup: Any) -> None:
        """Delete a backup, whatever was made after it."""
        with _errors():
            self._target(backup.container).delete(_own(backup))
            Kept.drop(self.engine, backup.id)

    def import_record(self, backup: Any, driver_info: dict[str, Any]) -> None:
        """Raise InvalidBackup unless the backup of a record is there."""
        with _errors():
            own = Own(backup.id, driver_info["volume"])
            self._target(driver_info["container"]).require(own)

    def export_record(self, backup: Any) -> dict[str, Any]:
        """Give what an import needs beside the record: where the backup is."""
        return {"container": backup.container, "volume": backup.volume_id}

    def _container(self) -> str:
        return str(CONF.fisk_backup_container or CONF.fisk_pool)

    def _target(self, container: str | None) -> Target:
        """Give the place of that name, or the usual one; raises NotFound."""
        name = container or self._container()
        directory = CONF.fisk_backup_directories.get(name)
        return DirectoryTarget(self.engine, Path(directory)) if directory else PoolTarget(self.engine, name)


def _own(backup: Any) -> Own:
    return Own(backup.id, backup.volume_id)


def _watch(backup: Any, status: str, volume_id: str | None = None) -> Watch:
    """Give what stops work when somebody gave the backup another status."""
    looked = time.monotonic()

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked < _LOOK_SECONDS:
            return
        looked = time.monotonic()
        with backup.as_read_deleted():
            backup.refresh()
        if backup.status != status:
            raise exception.BackupRestoreCancel(vol_id=volume_id or backup.volume_id, back_id=backup.id)

    return look


@contextmanager
def _errors() -> Iterator[None]:
    """Say in Cinder's words what went wrong."""
    try:
        yield
    except NotFound as problem:
        raise exception.InvalidBackup(reason=str(problem)) from problem
    except FiskError as problem:
        raise exception.BackupDriverException(reason=str(problem)) from problem

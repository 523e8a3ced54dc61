# SPDX-License-Identifier: Apache-2.0
"""Backups: ``backup_driver = fisk_openstack.cinder.backup.FiskBackupDriver``.

A backup is a Fisk, of any pool, or a file of a directory; in either it stands alone and may be deleted at any
time.
"""

from fisk_openstack.cinder.backup.driver import FiskBackupDriver

__all__ = ["FiskBackupDriver"]

# SPDX-License-Identifier: Apache-2.0
"""Options of the backup driver, in ``[DEFAULT]``, where Cinder has those of its own backup drivers."""

from oslo_config import cfg

from fisk_openstack import connection

OPTIONS = [
    cfg.StrOpt(
        "fisk_backup_container",
        help="Pool, or directory of fisk_backup_directories, of backups whose request names no container; "
        "the pool fisk_pool if unset.",
    ),
    cfg.DictOpt(
        "fisk_backup_directories",
        default={},
        help="Directories backups may be kept in, as NAME:PATH,NAME:PATH; a request names one as its "
        "container.",
    ),
    cfg.BoolOpt(
        "fisk_backup_independent",
        default=False,
        help="Do not record which backup an incremental one was made after. Nothing needs to know, but while "
        "it is recorded, Cinder refuses to delete the former. The property 'independent' (true or false) of "
        "a backup overrides this.",
    ),
]

CONF = cfg.CONF
CONF.register_opts([*connection.OPTIONS, *OPTIONS])

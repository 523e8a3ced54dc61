# SPDX-License-Identifier: Apache-2.0
"""The driver's options, in the section of its back end."""

from oslo_config import cfg

from fisk_openstack import connection

OPTIONS = [
    *connection.OPTIONS,
    cfg.StrOpt(
        "fisk_target_protocol",
        default="fisk",
        choices=["fisk", "iscsi"],
        help="How hosts reach volumes: through the daemon of their own (fisk), or as initiators of iSCSI "
        "targets that this host serves, for hosts without Fisk.",
    ),
]

# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk …``: what the OpenStack client asks of a plugin.

The commands are those of ``fisk``; they work on the Fisks of this host and need no cloud.
"""

import argparse

API_NAME = "fisk"
API_VERSION_OPTION = "os_fisk_api_version"
DEFAULT_API_VERSION = "1"
API_VERSIONS = ("1",)


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our global options to those of the client."""
    parser.add_argument(
        "--fisk-home",
        metavar="<directory>",
        help="Where Fisk keeps catalog and default pool; default $FISK_HOME, else ~/.local/share/fisk.",
    )
    return parser

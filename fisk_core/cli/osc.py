# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk …``: what the OpenStack client asks of a plugin.

The commands are those of ``fisk``; they need no cloud.
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
    parser.add_argument(
        "--fisk-url",
        metavar="<url>",
        help="The daemon to ask; default $FISK_URL, else the one of the home directory if it runs.",
    )
    parser.add_argument(
        "--fisk-cacert",
        metavar="<file>",
        help="Certificates of authorities that vouch for the daemon; default $FISK_CACERT.",
    )
    parser.add_argument(
        "--fisk-embedded",
        action="store_true",
        help="Work in this process, also where a daemon runs.",
    )
    return parser

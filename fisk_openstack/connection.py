# SPDX-License-Identifier: Apache-2.0
"""How a service of OpenStack reaches the daemon on its host: the options all adapters share."""

from pathlib import Path
from typing import Any

from oslo_config import cfg

from fisk_core.client import Patience, RemoteEngine
from fisk_core.errors import InvalidValue
from fisk_openstack.elsewhere import Everywhere

_PATIENCE = Patience(connect=30.0)
"""What a service was asked for waits for a daemon that is being restarted or upgraded, and does not fail."""
OPTIONS = [
    cfg.StrOpt(
        "fisk_url",
        help="The daemon on this host: unix:///PATH or https://HOST:PORT; its usual socket if unset.",
    ),
    cfg.StrOpt("fisk_token_file", help="File with the bearer token for a daemon reached over TCP."),
    cfg.StrOpt("fisk_cacert", help="Certificates (PEM) the daemon's own is checked against."),
    cfg.DictOpt(
        "fisk_hosts",
        default={},
        help="The daemons of other hosts with the same catalog, as HOST:URL, with commas between; HOST is"
        " what the daemon calls its host. What is attached there is snapshotted, copied and grown there."
        " Token and certificates are those of fisk_url.",
    ),
    cfg.StrOpt("fisk_pool", default="default", help="Pool in which this service makes Fisks."),
]


def connect(settings: Any) -> RemoteEngine:
    """Give the engine ``settings`` (anything with the options as attributes) speaks of.

    Connects when it is first used.  Raises InvalidValue.
    """
    how = {"token": _token(settings.fisk_token_file), "cacert": settings.fisk_cacert, "patience": _PATIENCE}
    found = Everywhere.open(settings.fisk_url, **how)
    found.others = {host: RemoteEngine.open(url, **how) for host, url in settings.fisk_hosts.items()}
    return found


def _token(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as problem:
        raise InvalidValue(f"the token cannot be read: {problem}") from None

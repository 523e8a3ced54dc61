# SPDX-License-Identifier: Apache-2.0
"""Access path ``iscsi``: a target with one LUN over the FUSE file, made and removed on demand.

The target daemon is one for the home directory.  It listens on the loopback interface unless told otherwise.
Its LUN can be reached as soon as ``connect`` returns the URL, which has all an initiator must know.
"""

import ipaddress
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oslo_utils import strutils

from fisk_core.access import fuse, tgt
from fisk_core.access.base import AccessPath, Details
from fisk_core.access.file import planned, refuse_unknown
from fisk_core.access.fuse import FuseFile
from fisk_core.errors import InvalidValue, PoolError
from fisk_core.model import Fisk

_IQN = "iqn.2024-01.org.fisk"
_PORTAL = "127.0.0.1:0"


class Iscsi(AccessPath):
    """Options: ``portal`` (``address:port``, port 0 is any; in effect when the daemon is started), ``chap``
    (true: initiators need the user and password in the URL, made for this attachment)."""

    name = "iscsi"

    def available(self) -> str | None:
        return fuse.lacking() or tgt.lacking()

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        self.require()
        refuse_unknown(options, known=("portal", "chap"))
        address, port = _parse_portal(options.get("portal", _PORTAL))
        chap = None
        if _truth(options.get("chap", False)):
            # iSCSI wants 12 to 16 characters of some initiators; letters and digits need no quoting.
            chap = {"user": f"fisk{secrets.token_hex(4)}", "password": secrets.token_hex(8)}
        return {
            **planned(uri, directory, read_only),
            "daemon": str(self.context.home.run / "iscsi"),
            "target": f"{_IQN}:{directory.name}",
            "serial": fisk.id,
            "address": address,
            "port": port,
            "chap": chap,
        }

    def connect(self, details: Details) -> str | None:
        file, daemon = _parts(details)
        chap = tgt.Chap(**details["chap"]) if details["chap"] else None
        with daemon.turn():
            if not file.alive:
                daemon.remove(details["target"], force=True)  # its LUN is over the dead file
            file.start(details["uri"], read_only=details["read_only"])
            daemon.start(details["address"], details["port"])
            daemon.add(
                details["target"],
                file.path,
                read_only=details["read_only"],
                serial=details["serial"],
                chap=chap,
            )
            login = f"{chap.user}%{chap.password}@" if chap else ""
            return f"iscsi://{login}{daemon.portal()}/{details['target']}/1"

    def disconnect(self, details: Details, *, force: bool = False) -> None:
        file, daemon = _parts(details)
        if daemon.directory.exists():
            with daemon.turn():
                daemon.remove(details["target"], force=force)
                if details["chap"]:
                    daemon.forget(details["chap"]["user"])
                daemon.end_unused()
        file.stop(force=force)

    def alive(self, details: Details) -> bool:
        file, daemon = _parts(details)
        try:
            return file.alive and daemon.helper.running and daemon.has_lun(details["target"], file.path)
        except PoolError:  # it is ending
            return False

    def resized(self, details: Details, size: int) -> None:
        """Initiators that are logged in see the new size when they log in again: tgt measures a LUN once."""
        file, daemon = _parts(details)
        file.resized(size)
        with daemon.turn():
            if not daemon.in_use(details["target"]):
                daemon.remove(details["target"], force=True)
        self.connect(details)


def _parts(details: Details) -> tuple[FuseFile, tgt.Daemon]:
    return FuseFile(Path(details["directory"])), tgt.Daemon(Path(details["daemon"]))


def _truth(value: Any) -> bool:
    """Read yes or no as a command line gives them, too; raises InvalidValue."""
    try:
        return strutils.bool_from_string(str(value), strict=True)
    except ValueError:
        raise InvalidValue(f"chap is true or false, not {value!r}") from None


def _parse_portal(portal: object) -> tuple[str, int]:
    """Split ``address:port``; raises InvalidValue."""
    host, _, port = str(portal).rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise InvalidValue(f"the portal {portal!r} is not an address with a port, like {_PORTAL}") from None
    if not 0 <= number < 1 << 16:
        raise InvalidValue(f"there is no port {number}")
    return (f"[{address}]" if address.version == 6 else str(address)), number

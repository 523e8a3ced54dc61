# SPDX-License-Identifier: Apache-2.0
"""A Fisk as a block device of the kernel's own NBD client, and the process that keeps it connected."""

import logging
import os
import sys
import threading
from pathlib import Path

from fisk_core.access import nbd_devices
from fisk_core.access.helpers import Helper
from fisk_core.access.mounts import real
from fisk_core.access.nbd_devices import NbdDevice
from fisk_core.dataplane.client import export_info
from fisk_core.dataplane.client_uri import parse_uri
from fisk_core.errors import PoolError, from_oserror

LOG = logging.getLogger(__name__)

_KEEPER = "fisk_core.access.nbd_keeper"
_FORCE_SECONDS = 5.0


class KernelNbd:
    """The device of the attachment in ``directory``, there or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.helper = Helper(directory, "nbd")
        self.name = f"fisk:{real(directory)}"

    @staticmethod
    def lacking() -> str | None:
        """Say what this host lacks for such a device."""
        return nbd_devices.lacking()

    @property
    def alive(self) -> bool:
        return self.helper.running and bool(NbdDevice.every(self.name))

    @property
    def path(self) -> Path | None:
        """The device, if it is there."""
        return next((each.path for each in NbdDevice.every(self.name)), None)

    def start(self, uri: str, *, read_only: bool, sector_size: int) -> Path:
        """Have the device there, and kept; gives its path."""
        parse_uri(uri)
        nbd_devices.load()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        access = "ro" if read_only else "rw"
        self.helper.start([sys.executable, "-m", _KEEPER, uri, self.name, str(sector_size), access])
        self.helper.wait_until(lambda: bool(NbdDevice.every(self.name)))
        return NbdDevice.every(self.name)[0].path

    def stop(self, *, force: bool) -> None:
        """Make durable what was written and take the device away; raises InUse, unless forced."""
        for device in [] if force else NbdDevice.every(self.name):
            self._release(device)
        self.helper.end()
        for device in NbdDevice.every(self.name):
            # Forced; or made meanwhile, by a keeper that was only just starting.
            _force(device)
        self.helper.remove()
        if self.directory.exists():
            self.directory.rmdir()

    def _release(self, device: NbdDevice) -> None:
        """Flush and disconnect a device that nobody uses; raises InUse, PoolError."""
        fd = device.claim()
        try:
            _flush(fd, device.path)
            self.helper.end()  # before the device: it would connect that again
            device.disconnect()
        finally:
            os.close(fd)

    def resized(self, uri: str, size: int) -> None:
        """Show the new size; raises PoolError when the worker does not know it either."""
        known = export_info(uri).size
        if known != size:
            raise PoolError(f"the worker at {uri} has {known} bytes and not {size}")
        for device in NbdDevice.every(self.name):
            device.change(size)


def _force(device: NbdDevice) -> None:
    """Disconnect, without waiting for ever: the kernel waits for a worker that takes nothing from it.

    Whoever forces this ends the worker next, and then the kernel goes on.
    """
    thread = threading.Thread(target=_disconnect, args=(device,), daemon=True)
    thread.start()
    thread.join(_FORCE_SECONDS)
    if thread.is_alive():
        LOG.warning("%s goes when its worker has ended", device.path)


def _disconnect(device: NbdDevice) -> None:
    try:
        device.disconnect()
    except PoolError as exc:
        LOG.warning("%s", exc)


def _flush(fd: int, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as exc:
        raise from_oserror(exc, f"make durable what was written to {path}") from exc

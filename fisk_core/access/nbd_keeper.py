# SPDX-License-Identifier: Apache-2.0
"""Keeps a device of the kernel connected: ``python -m fisk_core.access.nbd_keeper URI NAME SECTOR rw|ro``.

It is not in the data path: it negotiates, hands the connected socket to the kernel, and does so again when
that connection has ended, because the worker was killed and a successor listens at the same address.
Meanwhile the kernel has requests wait.  It may be killed itself at any moment: the kernel keeps device and
connection, and the next one finds the device by its name.

Two tell that a connection has ended: the kernel announces it, but only in the first network namespace of the
host; and the socket itself, but only one that was made here.
"""

import logging
import select
import socket
import sys
import time

from fisk_core.access.link import RECONNECT_SECONDS
from fisk_core.access.nbd_devices import FAMILY, GROUP, INDEX, LINK_DEAD, NbdDevice, Shape
from fisk_core.access.netlink import U32, Family, announcements
from fisk_core.dataplane.client import hand_over
from fisk_core.errors import FiskError, NotFound

LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
"""The end of a connection can be heard of a moment before the kernel has its place free for another."""
_PAUSE_SECONDS = 0.05


class Keeper:
    """Keeps the device called ``name``, over the export ``uri``."""

    def __init__(self, uri: str, name: str) -> None:
        self._uri = uri
        with Family(FAMILY) as family:
            # Before the device is looked at: what ends later is heard of.
            self._announced = family.listen(GROUP)
        self._poll = select.poll()
        self._poll.register(self._announced, select.POLLIN)
        self._name = name
        self._sock: socket.socket | None = None

    def run(self, sector_size: int, *, read_only: bool) -> None:
        """Have the device, and keep it until it is gone; raises FiskError when it cannot be made."""
        found = NbdDevice.every(self._name)
        if found:
            self._device = found[0]
            self._renew()
        else:
            sock, info = hand_over(self._uri)
            shape = Shape.of(info.size, sector_size, info.flags, read_only=read_only)
            self._device = NbdDevice.make(self._name, shape, sock.fileno(), RECONNECT_SECONDS)
            self._watch(sock)
        LOG.info("keeping %s connected", self._device.path)
        again: float | None = None
        while True:
            again = time.monotonic() + _AGAIN_SECONDS if self._ended(again) else None
            self._renew()

    def _renew(self) -> None:
        """Give the kernel a connection; one it does not need is only watched.  Waits for the worker."""
        while True:
            if self._device not in NbdDevice.every(self._name):
                raise NotFound(f"{self._device.path} is gone")
            try:
                sock, info = hand_over(self._uri)
                break
            except FiskError:  # whatever it is, its successor may do better
                time.sleep(_PAUSE_SECONDS)
        self._watch(sock)
        self._device.change(info.size, sock.fileno())

    def _watch(self, sock: socket.socket) -> None:
        """Look at this connection from now on, instead of the one before."""
        if self._sock is not None:
            self._poll.unregister(self._sock)
            self._sock.close()
        self._sock = sock
        self._poll.register(sock, select.POLLRDHUP)

    def _ended(self, deadline: float | None) -> bool:
        """Wait; True when a connection has ended, False at the deadline."""
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = [fd for fd, _ in self._poll.poll(left)]
            if not ready:
                return False
            if self._sock is not None and self._sock.fileno() in ready:
                return True
            if self._is_announced():
                return True

    def _is_announced(self) -> bool:
        try:
            told = [
                command == LINK_DEAD and U32.unpack(values[INDEX])[0] == self._device.index
                for command, values in announcements(self._announced)
            ]
        except OSError as exc:
            LOG.info("announcements were lost: %s", exc.strerror)
            return True
        return any(told)


def main() -> None:
    uri, name, sector_size, access = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        Keeper(uri, name).run(int(sector_size), read_only=access == "ro")
    except FiskError as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()

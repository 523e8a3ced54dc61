# SPDX-License-Identifier: Apache-2.0
"""The open layers of one Fisk: alias → file descriptor, opened when first needed.

``fds[alias]`` is what the data path uses: a descriptor, or HOLE, or UNOPENED.  It may be read without
asking, because an entry changes only here, on the thread that owns the disk.
"""

import os
import resource
from contextlib import suppress

from fisk_core.blockmap import Geometry, sums
from fisk_core.dataplane.verify import Checked, open_checked
from fisk_core.dataplane.windows import Windows
from fisk_core.errors import Unsupported
from fisk_core.pools.base import Device, Kind, Pool

HOLE = -1
UNOPENED = -2

_SPARE = 320  # descriptors left for connections, listeners, logs and blobs


class Layers:
    """The layers a map names, in its order of aliases."""

    def __init__(self, pool: Pool, layers: list[str | None], geometry: Geometry | None = None) -> None:
        """With a ``geometry``, layers that have checksums are compared with them."""
        self._pool, self._geometry = pool, geometry
        self._ids = layers
        self._devices: dict[int, Device] = {}
        self.fds = [HOLE, *[UNOPENED] * (len(layers) - 1)]
        self._advice = os.POSIX_FADV_RANDOM
        self.pinned = 0
        """threads that use descriptors now; none is closed while there are any"""
        # A fifth is for windows, each of which has a descriptor of its own.
        descriptors = max(20, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE)
        self.windows = Windows(descriptors // 5)
        self._limit = descriptors - descriptors // 5
        self.checked: dict[int, Checked] | None = None
        """descriptor → what is compared when reading from it; None where the pool keeps no checksums"""
        if geometry is not None and sums.wanted(pool):
            self.checked, self._limit = {}, self._limit // 2

    def open(self, alias: int) -> int:
        """Give the descriptor of a layer, opening it; raises NotFound or PoolError."""
        if self.fds[alias] != UNOPENED:
            return self.fds[alias]
        if len(self._devices) >= self._limit and not self.pinned:
            self._close_oldest(len(self._devices) // 2)
        layer = self._ids[alias]
        assert layer is not None
        checked = None
        if self.checked is not None and self._geometry is not None:
            checked = open_checked(self._pool, layer, self._geometry)
        try:
            device = self._pool.open_device(Kind.LAYER, layer, writable=False)
        except BaseException:
            if checked is not None:
                checked.close()
            raise
        return self.add(alias, device, checked)

    def add(self, alias: int, device: Device, checked: Checked | None = None) -> int:
        """Take over an open layer as ``alias`` (the next one, or one not opened yet), and its checksums."""
        try:
            fd = direct(device)
        except BaseException:
            device.close()
            if checked is not None:
                checked.close()
            raise
        if self.checked is not None and checked is not None:
            self.checked[fd] = checked
        # Usually a miss reads what was asked for, not a window around it; streams are noticed and read
        # ahead here.
        self._advise(fd)
        if alias == len(self.fds):
            self.fds.append(fd)
        self.fds[alias] = fd
        self._devices[alias] = device
        return fd

    def advise(self, advice: int) -> None:
        """Say how the layers will be read, those opened later too (posix_fadvise)."""
        if advice != self._advice:
            self._advice = advice
            for alias in self._devices:
                self._advise(self.fds[alias])

    def _advise(self, fd: int) -> None:
        with suppress(OSError):  # only advice
            os.posix_fadvise(fd, 0, 0, self._advice)

    def _close_oldest(self, count: int) -> None:
        """Close layers opened longest ago, except the newest alias, which is the live one."""
        for alias in [alias for alias in self._devices if alias != len(self.fds) - 1][:count]:
            self._let_go(self.fds[alias])
            self.fds[alias] = UNOPENED
            self._devices.pop(alias).close()

    def release(self) -> None:
        """Close layers whose files were removed, all but the newest alias, which is the live one.

        No map names them any more, so no block of ours is in them; their space comes back only now.
        """
        for alias in [] if self.pinned else list(self._devices):
            if alias != len(self.fds) - 1 and _is_removed(self.fds[alias]):
                self._let_go(self.fds[alias])
                self.fds[alias] = UNOPENED
                self._devices.pop(alias).close()

    def _let_go(self, fd: int) -> None:
        self.windows.drop(fd)
        if self.checked and fd in self.checked:
            self.checked.pop(fd).close()

    def close(self) -> None:
        for alias, device in self._devices.items():
            self._let_go(self.fds[alias])
            device.close()
        self._devices.clear()
        self.fds[:] = [UNOPENED] * len(self.fds)


def _is_removed(fd: int) -> bool:
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError:
        return False  # whoever reads it will be told


def direct(device: Device) -> int:
    """Give the descriptor at which byte x of the device is byte x; raises Unsupported when there is none."""
    routes = device.route(0, max(device.size, 1))
    if len(routes) != 1 or routes[0][1] != 0:
        raise Unsupported("this pool does not give layers as plain files")
    return routes[0][0]

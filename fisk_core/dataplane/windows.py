# SPDX-License-Identifier: Apache-2.0
"""Parts of layers mapped into memory, so that the kernel copies what is cached once: from file to socket.

Reading into a buffer and sending that copies twice; sendfile(2) copies nothing, but what it gave to a socket
changes with the file until the peer takes it.  Memory that is mapped is copied when it is sent.

Only the kernel may look at a window: for it a page that cannot be read is EFAULT, for this process the end.
"""

import mmap
from collections import OrderedDict
from dataclasses import dataclass

from fisk_core.dataplane.protocol import MAX_REQUEST

SPAN = 64 << 20
"""bytes from the start of a window to that of the next; each goes on for one largest request"""
MOST = 4
"""windows of one worker: their page tables take 2 KiB for each MiB"""


@dataclass(slots=True)
class Window:
    """The mapped bytes of one layer from a multiple of SPAN on."""

    memory: mmap.mmap
    view: memoryview

    def close(self) -> None:
        self.view.release()
        self.memory.close()


class Windows:
    """The windows used last, by (descriptor, number)."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[int, int], Window] = OrderedDict()

    def slice(self, fd: int, offset: int, length: int, size: int) -> memoryview | None:
        """Give a range of a file of ``size`` bytes, to be released soon; None where it cannot be mapped."""
        if offset + length > size:
            return None
        number, start = divmod(offset, SPAN)
        window = self._windows.get((fd, number))
        if window is None or start + length > len(window.view):  # the file may have grown
            window = self._open(fd, number, size)
            if window is None:
                return None
        self._windows.move_to_end((fd, number))
        return window.view[start : start + length]

    def _open(self, fd: int, number: int, size: int) -> Window | None:
        self._close((fd, number))
        start = number * SPAN
        try:
            memory = mmap.mmap(fd, min(SPAN + MAX_REQUEST, size - start), prot=mmap.PROT_READ, offset=start)
        except (OSError, ValueError):
            return None  # no memory to map, or a file that became smaller: it is read as usual then
        while len(self._windows) >= MOST:
            self._close(next(iter(self._windows)))
        window = self._windows[fd, number] = Window(memory, memoryview(memory))
        return window

    def _close(self, key: tuple[int, int]) -> None:
        if window := self._windows.pop(key, None):
            window.close()

    def drop(self, fd: int) -> None:
        """Let go of a file that is about to be closed: a window keeps its space otherwise."""
        for key in [key for key in self._windows if key[0] == fd]:
            self._close(key)

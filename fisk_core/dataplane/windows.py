# SPDX-License-Identifier: Apache-2.0
"""Parts of layers mapped into memory, so that the kernel copies what is cached once: from file to socket.

Reading into a buffer and sending that copies twice; sendfile(2) copies nothing, but what it gave to a socket
changes with the file until the peer takes it.  Memory that is mapped is copied when it is sent.

Only the kernel may look at a window: for it a page that cannot be read is EFAULT, for this process the end.
"""

import mmap
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from fisk_core.dataplane.protocol import MAX_REQUEST

SPAN = 64 << 20
"""bytes from the start of a window to that of the next; each goes on for one largest request"""
PART = 2 << 20
"""bytes that one page of page tables maps: what a window costs is counted in these"""
MOST = 2048
"""parts that the windows of one worker have touched together: 8 MiB of page tables"""


@dataclass(slots=True)
class Window:
    """The mapped bytes of one layer from a multiple of SPAN on."""

    memory: mmap.mmap
    view: memoryview
    touched: int = 0
    """a bit for each part of which something was given"""

    def close(self) -> None:
        self.view.release()
        self.memory.close()


class Windows:
    """The windows used last, by (descriptor, number); each has a descriptor of its own."""

    def __init__(self, most: int) -> None:
        """Keep at ``most`` windows, fewer where they touch more than MOST parts."""
        self._most = most
        self._windows: OrderedDict[tuple[int, int], Window] = OrderedDict()
        self._numbers: defaultdict[int, set[int]] = defaultdict(set)
        """descriptor → numbers of its windows: a thousand layers are closed without a look at all of them"""
        self._touched = 0

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
        self._touch(window, start // PART, (start + length - 1) // PART)
        return window.view[start : start + length]

    def _touch(self, window: Window, first: int, last: int) -> None:
        """Count parts of the newest window, and close the oldest for them."""
        touched = window.touched | (2 << last) - (1 << first)
        if touched != window.touched:
            self._touched += (touched ^ window.touched).bit_count()
            window.touched = touched
            while self._touched > MOST and len(self._windows) > 1:
                self._close_oldest()

    def _open(self, fd: int, number: int, size: int) -> Window | None:
        self._close((fd, number))
        start = number * SPAN
        try:
            memory = mmap.mmap(fd, min(SPAN + MAX_REQUEST, size - start), prot=mmap.PROT_READ, offset=start)
        except (OSError, ValueError):
            return None  # no memory to map, or a file that became smaller: it is read as usual then
        if len(self._windows) >= self._most:
            self._close_oldest()
        window = self._windows[fd, number] = Window(memory, memoryview(memory))
        self._numbers[fd].add(number)
        return window

    def _close_oldest(self) -> None:
        self._close(next(iter(self._windows)))

    def _close(self, key: tuple[int, int]) -> None:
        if window := self._windows.pop(key, None):
            self._touched -= window.touched.bit_count()
            self._numbers[key[0]].remove(key[1])
            window.close()

    def drop(self, fd: int) -> None:
        """Let go of a file that is about to be closed: a window keeps its space otherwise."""
        for number in list(self._numbers.get(fd, ())):
            self._close((fd, number))
        self._numbers.pop(fd, None)

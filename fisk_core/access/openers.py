# SPDX-License-Identifier: Apache-2.0
"""Who has a block device open, as far as ``/proc`` shows it."""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress


def has_others(numbers: Collection[int], ours: int) -> bool:
    """Whether a descriptor is of a device with one of ``numbers``, but for our descriptor ``ours``."""
    excepted = ("self", str(ours))
    return any(_device_number(*each) in numbers for each in _descriptors() if each != excepted)


def _descriptors() -> Iterator[tuple[str, str]]:
    """Give process and number of all descriptors of all processes; our own process is ``self``."""
    mine = str(os.getpid())
    for process in os.listdir("/proc"):
        if process.isdecimal():
            name = "self" if process == mine else process
            with suppress(OSError):  # it ended
                yield from [(name, fd) for fd in os.listdir(f"/proc/{name}/fd")]


def _device_number(process: str, fd: str) -> int | None:
    """Give the number of the block device that a descriptor is of."""
    path = f"/proc/{process}/fd/{fd}"
    with suppress(OSError):  # it was closed
        # Only what is called a device is asked: a file system that hangs would have us hang as well.
        if "/dev/" in os.readlink(path):
            status = os.stat(path)
            return status.st_rdev if stat.S_ISBLK(status.st_mode) else None
    return None

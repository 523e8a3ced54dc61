# SPDX-License-Identifier: Apache-2.0
"""Mount points of single files: whether there is one, and taking it away."""

import ctypes
import errno
import os
import time
from pathlib import Path

from fisk_core.errors import InUse, from_oserror

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_PATIENCE_SECONDS = 1.0
"""For those that only look at a new file or device, as udev does."""

_libc = ctypes.CDLL(None, use_errno=True)


def real(path: Path) -> Path:
    """Give the name the kernel has for ``path``, without looking at what is mounted there."""
    return path.parent.resolve() / path.name


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on ``path``; works where its server is dead."""
    wanted = os.fsencode(real(path)).replace(b"\\", b"\\134")
    for plain, octal in ((b" ", b"\\040"), (b"\t", b"\\011"), (b"\n", b"\\012")):
        wanted = wanted.replace(plain, octal)
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split(b" ", 5)[4] == wanted for line in lines)


def unmount(path: Path, *, force: bool) -> None:
    """Take away every mount on ``path``; raises InUse while it is open, unless forced."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while is_mounted(path):
        try:
            _umount(path, _UMOUNT_NOFOLLOW | (_MNT_DETACH if force else 0))
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise from_oserror(exc, f"unmount {path}") from exc
            if time.monotonic() > deadline:
                raise InUse(f"{path} is open in some process; close it, or force") from None
            time.sleep(0.05)


def _umount(path: Path, flags: int) -> None:
    if _libc.umount2(os.fsencode(path), flags) != 0:
        code = ctypes.get_errno()
        if code != errno.EINVAL:  # somebody else was faster
            raise OSError(code, os.strerror(code))

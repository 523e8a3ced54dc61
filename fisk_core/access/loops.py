# SPDX-License-Identifier: Apache-2.0
"""Loop devices: one over a file, found again by the file.

Nothing about them is remembered anywhere: the kernel knows which file each one has, and our files have names
nobody else uses.  losetup(8) makes and removes them; what it cannot say is read from sysfs.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

from fisk_core.access.mounts import real
from fisk_core.errors import InUse, PoolError

_LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C04, 0x4C05
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
"""struct loop_info64; the flags are its 9th field."""
_FLAGS, _AUTOCLEAR = 8, 4
_PATIENCE_SECONDS = 1.0
"""For those that only look at a new device, as udev does."""


def lacking() -> str | None:
    """Say what this host lacks to make loop devices."""
    if not shutil.which("losetup"):
        return "losetup is not installed (Debian: mount)"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control; load the kernel module loop"
    return None


def devices_of(file: Path) -> list[Path]:
    """Give the loop devices over ``file``, "(deleted)" or not."""
    found, wanted = [], str(real(file))
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = backing.read_text().rstrip("\n").removesuffix(" (deleted)")
        except OSError:  # detached meanwhile
            continue
        if name == wanted:
            found.append(Path("/dev") / backing.parent.parent.name)
    return sorted(found)


def attach(file: Path, *, read_only: bool, sector_size: int) -> Path:
    """Have one loop device over ``file``, without caching its data twice; raises PoolError."""
    if devices := devices_of(file):
        return devices[0]
    arguments = ["--find", "--show", "--direct-io=on", f"--sector-size={sector_size}"]
    return Path(_losetup(*arguments, *(["--read-only"] if read_only else []), str(file)))


def detach(file: Path, *, force: bool) -> None:
    """Remove the loop devices over ``file``; raises InUse while one is used, unless forced.

    Forced, a device that is used stays until its last user closes it, and gives errors once the file is gone.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while devices := devices_of(file):
        for device in devices:
            _detach(device, force)
        if not (left := devices_of(file)) or force:
            return
        if time.monotonic() > deadline:
            for device in left:
                _keep(device)
            raise InUse(f"{left[0]} is in use (mounted, or open in some process); free it, or force")
        time.sleep(0.05)


def resized(file: Path) -> None:
    """Have the devices over ``file`` show its present size."""
    for device in devices_of(file):
        _losetup("--set-capacity", str(device))


def _detach(device: Path, force: bool) -> None:
    """Ask for removal.  While the device is open the kernel only notes that the last close removes it."""
    if (force or not _is_claimed(device)) and Path("/sys/block", device.name, "loop").exists():
        subprocess.run(["losetup", "--detach", device], capture_output=True)


def _is_claimed(device: Path) -> bool:
    """Whether a mount, or anything else that wants it for itself alone, has the device."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def _keep(device: Path) -> None:
    """Take back what ``_detach`` noted."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = bytearray(_INFO.size)
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
        fields = list(_INFO.unpack(info))
        fields[_FLAGS] &= ~_AUTOCLEAR
        fcntl.ioctl(fd, _LOOP_SET_STATUS64, _INFO.pack(*fields))
    except OSError as exc:
        raise PoolError(f"{device} goes away when it is closed: {exc.strerror}") from exc
    finally:
        os.close(fd)


def _losetup(*arguments: str) -> str:
    done = subprocess.run(["losetup", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise PoolError(f"losetup: {done.stderr.strip()}")
    return done.stdout.strip()

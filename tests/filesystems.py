# SPDX-License-Identifier: Apache-2.0
"""Real file systems to test on: small ones that fill up, ones with reflink, ones that lack things.

Needs root and loop devices; where they are missing the test is skipped and says why.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20

SMALLEST = {"ext4": 16 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB, "ramfs": 0, "tmpfs": 4096}
"""The least bytes each can be made with; the file behind it is sparse."""

_MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


@contextmanager
def mounted(fstype: str, size: int, tmp_path: Path) -> Iterator[Path]:
    """Make and mount an empty file system of ``size`` bytes; gives its directory, which ``tmp_path`` holds.

    ``fstype`` is ext4, xfs (with reflink), btrfs, tmpfs or ramfs (no limit, no fallocate).  All that was
    opened on it must be closed before the end, or unmounting fails the test.
    """
    if os.geteuid() != 0:
        pytest.skip(f"mounting {fstype} needs root")
    directory = tmp_path / f"mounted-{fstype}"
    directory.mkdir()
    if fstype not in _MKFS:
        with _mounted(fstype, fstype, directory, f"size={size}" if fstype == "tmpfs" else "rw"):
            yield directory
        return
    with (
        _loop_device(fstype, size, tmp_path / f"{fstype}.disk") as device,
        _mounted(fstype, device, directory, "rw"),
    ):
        yield directory


@contextmanager
def _loop_device(fstype: str, size: int, image: Path) -> Iterator[str]:
    """Give a loop device that holds a new file system."""
    mkfs, *arguments = _MKFS[fstype]
    for tool in (mkfs, "losetup"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([mkfs, *arguments, image], check=True, capture_output=True)
    attached = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


@contextmanager
def _mounted(fstype: str, source: str, directory: Path, options: str) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", fstype, "-o", options, source, directory], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount {fstype}: {done.stderr.strip()}")
    try:
        yield
    finally:
        if subprocess.run(["umount", directory], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", directory], check=True)  # gone when its last file is closed
            pytest.fail(f"a file on {directory} was left open")

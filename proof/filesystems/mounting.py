# SPDX-License-Identifier: Apache-2.0
"""File systems made, mounted, frozen and checked with the tools people use."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proof.core import ProofFailed

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of file system: the least Fisk it fits on, and its commands, the device at the end."""

    name: str
    size: int
    make: tuple[str, ...]
    check: tuple[str, ...]
    options: str
    """to mount a copy beside the original"""


KINDS = (
    Kind("ext4", 96 * MIB, ("mkfs.ext4", "-q", "-F"), ("fsck.ext4", "-f", "-n"), "rw"),
    Kind("xfs", 320 * MIB, ("mkfs.xfs", "-q", "-f"), ("xfs_repair", "-n"), "rw,nouuid"),
)


def lacking() -> list[str]:
    """Give the tools that are not there."""
    tools = {word for kind in KINDS for word in (kind.make[0], kind.check[0])} | {"mount", "fsfreeze"}
    return sorted(tool for tool in tools if not shutil.which(tool))


def run(*words: object) -> str:
    """Run a command that must succeed; gives what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise ProofFailed(f"{' '.join(map(str, words))}: status {done.returncode}\n{said}")
    return said


@contextmanager
def mounted(kind: Kind, device: str, folder: Path, *, copy: bool = False) -> Iterator[Path]:
    """Mount a device; it is unmounted in the end, whatever happens."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", kind.name, "-o", kind.options if copy else "rw", device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Hold all writing to a file system for a moment, everything of it on the device."""
    run("fsfreeze", "--freeze", folder)
    try:
        yield
    finally:
        run("fsfreeze", "--unfreeze", folder)

# SPDX-License-Identifier: Apache-2.0
"""QEMU's guest agent as it is on this machine, with the libraries it needs, packed for a guest that has none.

A guest unpacks it into its root directory, and only when it has a port for it.
"""

import gzip
import io
import os
import tarfile
from pathlib import Path

from devstack.ministack.errors import MinistackError
from devstack.ministack.processes import call

ARCHIVE = "agent.tgz"
PROGRAM = Path("/usr/sbin/qemu-ga")


def pack() -> bytes:
    """Give the archive, the same bytes for the same files; raises MinistackError."""
    if not PROGRAM.exists():
        raise MinistackError("qemu-guest-agent is not installed; ministack installs it where it may")
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file,
        tarfile.open(fileobj=file, mode="w|") as tar,
    ):
        for path in (PROGRAM, *_libraries()):
            entry = tarfile.TarInfo(str(path).lstrip("/"))
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _libraries() -> list[Path]:
    """Give the libraries by the names the loader looks for."""
    words = call(["ldd", PROGRAM]).split()
    return sorted({Path(os.path.abspath(word)) for word in words if word.startswith("/")})

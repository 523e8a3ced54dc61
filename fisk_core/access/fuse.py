# SPDX-License-Identifier: Apache-2.0
"""A Fisk as one file: QEMU's storage daemon serves what it reads by NBD through FUSE.

Of the programs that can do it this one was chosen because it reconnects when the worker is restarted, passes
discards on and can follow a resize.  nbdfuse is up to twice as fast for large sequential reads and the same
otherwise, but its file is dead for good once the connection was lost.

The file is not cached by the kernel: a write is in the worker when it is acknowledged, ``fsync`` is a flush,
punching holes and zeroing ranges are a trim and a write of zeros.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from fisk_core.access import qmp
from fisk_core.access.helpers import Helper
from fisk_core.access.mounts import is_mounted, unmount
from fisk_core.dataplane.client_uri import parse_uri
from fisk_core.errors import InvalidValue

PROGRAM = "qemu-storage-daemon"
RECONNECT_SECONDS = 60
"""How long requests wait for a worker that is being restarted, before they fail."""
_NODE, _MONITOR = "disk", "qmp"


def lacking() -> str | None:
    """Say what this host lacks to serve a file."""
    if not shutil.which(PROGRAM):
        return f"{PROGRAM} is not installed (Debian: qemu-utils or qemu-system-common)"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse; load the kernel module fuse"
    if os.geteuid() != 0:
        return "mounting needs root"
    return None


class FuseFile:
    """The file ``path`` in ``directory``, and the process that serves it, there or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "disk.raw"
        self.helper = Helper(directory, "fuse")

    @property
    def alive(self) -> bool:
        return self.helper.running and is_mounted(self.path)

    def start(self, uri: str, *, read_only: bool) -> None:
        """Have the file there; one whose server died is replaced."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.alive:
            return
        self.helper.end()
        unmount(self.path, force=True)
        self.path.touch(0o600)
        (self.directory / _MONITOR).unlink(missing_ok=True)
        self.helper.start(_command(uri, read_only))
        self.helper.wait_until(lambda: is_mounted(self.path))

    def stop(self, *, force: bool) -> None:
        """Take the file away; raises InUse while it is open, unless forced."""
        unmount(self.path, force=force)
        self.helper.end()
        # It may have been mounted between the two, by a helper that was only just starting.
        unmount(self.path, force=True)
        for path in (self.path, self.directory / _MONITOR):
            path.unlink(missing_ok=True)
        self.helper.remove()
        if self.directory.exists():
            self.directory.rmdir()

    def resized(self, uri: str, size: int, *, read_only: bool) -> None:
        """Show the new size.

        The NBD driver of QEMU never asks again how large an export is.  A new connection knows; the node that
        is exported is told to use that one, and the old one is dropped.
        """
        monitor = self.directory / _MONITOR
        nodes = {node["node-name"]: node["image"] for node in qmp.command(monitor, "query-named-block-nodes")}
        if nodes[_NODE]["virtual-size"] == size:
            return
        old = [name for name in nodes if name.startswith("nbd")]
        new = f"nbd{max(int(name[3:]) for name in old) + 1}"
        qmp.command(monitor, "blockdev-add", **_nbd(uri, new, read_only))
        qmp.command(monitor, "blockdev-reopen", options=[_raw(new, read_only)])
        for name in old:
            qmp.command(monitor, "blockdev-del", **{"node-name": name})
        if not read_only:
            qmp.command(monitor, "block_resize", **{"node-name": _NODE, "size": size})


def _command(uri: str, read_only: bool) -> list[str]:
    export = {
        "type": "fuse",
        "id": "file",
        "node-name": _NODE,
        "mountpoint": "disk.raw",
        "writable": not read_only,
        "allow-other": "auto",
    }
    return [
        PROGRAM,
        "--blockdev",
        json.dumps(_nbd(uri, "nbd0", read_only)),
        "--blockdev",
        json.dumps(_raw("nbd0", read_only)),
        "--chardev",
        f"socket,id=monitor,path={_MONITOR},server=on,wait=off",
        "--monitor",
        "chardev=monitor",
        "--export",
        json.dumps(export),
    ]


def _nbd(uri: str, node: str, read_only: bool) -> dict[str, Any]:
    target = parse_uri(uri)
    if target.path is None:
        raise InvalidValue(f"{uri} is not on a unix socket")
    return {
        "driver": "nbd",
        "node-name": node,
        "server": {"type": "unix", "path": target.path},
        "export": target.export,
        "reconnect-delay": RECONNECT_SECONDS,
        "discard": "unmap",
        "read-only": read_only,
    }


def _raw(node: str, read_only: bool) -> dict[str, Any]:
    return {
        "driver": "raw",
        "node-name": _NODE,
        "file": node,
        "discard": "unmap",
        "read-only": read_only,
    }

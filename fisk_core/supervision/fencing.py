# SPDX-License-Identifier: Apache-2.0
"""Taking a Fisk over from another host.

The fence is written first, durably; the other host's worker looks at it, lets go of the Fisk, and then of its
lock, which is what we wait for.  A host that does not answer keeps its lock, and we give up: there are never
two writers.  Our own lease is above the fence.
"""

import os
from pathlib import Path

from fisk_core.catalog import Record, leases
from fisk_core.dataplane.fence import read_fence
from fisk_core.errors import from_oserror
from fisk_core.supervision.core import Core


def take_over(core: Core, record: Record) -> float:
    """Tell the writer on another host to let go; gives the seconds to wait for that, 0 when there is none.

    The caller holds the operation lock.  Raises PoolError when the fence cannot be written.
    """
    with core.engine.catalog.read() as conn:
        lease = leases.find(conn, record.id)
    if lease is None or lease.host == core.host:
        return 0.0
    write_fence(core.home.fence(record.id), lease.epoch + 1)
    return core.settings.workers.fence_seconds


def fence(core: Core, fisk_id: str) -> None:
    """Tell whoever writes the Fisk to let go; the caller holds the operation lock."""
    with core.engine.catalog.read() as conn:
        epoch = leases.epoch(conn, fisk_id)
    write_fence(core.home.fence(fisk_id), epoch + 1)


def write_fence(path: Path, epoch: int) -> None:
    """Let nobody write whose epoch is below ``epoch``, durably; a fence only rises.  Raises PoolError."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        if read_fence(path) >= epoch:
            return
        with open(new, "w") as file:
            file.write(f"{epoch}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        _sync(path.parent)
    except OSError as exc:
        raise from_oserror(exc, f"write {path}") from exc


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

# SPDX-License-Identifier: Apache-2.0
"""Writing what was backed up to a volume, of Fisk or of any other storage."""

import os
from typing import Any

from fisk_core.errors import NoSpace
from fisk_core.model import Change
from fisk_openstack.brick.handle import FiskHandle
from fisk_openstack.cinder.backup.source import Source, pieces
from fisk_openstack.cinder.backup.target import Extents, Watch

_PIECE = 4 << 20


def write(source: Source, extents: Extents, file: Any, *, clean: bool, watch: Watch) -> None:
    """Make ``file`` read as ``source``, and as zeros behind its end.

    ``clean``: it reads as zeros already, so zeros are not written.  Raises NoSpace, OSError.
    """
    file.seek(0, os.SEEK_END)
    end = file.tell()
    if end < source.size:
        raise NoSpace(f"{source.size} bytes were backed up, and the volume has {end}")
    for extent in pieces(extents, source.size, _PIECE):
        watch()
        if extent.change is Change.DATA:
            put(file, extent.offset, source.read(extent.offset, extent.length))
        elif not clean:
            zero(file, extent.offset, extent.length)
    if not clean:
        zero(file, source.size, end - source.size)
    file.flush()


def put(file: Any, offset: int, data: bytes) -> None:
    """Write all of ``data`` at ``offset``."""
    file.seek(offset)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def zero(file: Any, offset: int, length: int) -> None:
    """Make a range read as zeros."""
    if isinstance(getattr(file, "_obj", file), FiskHandle):
        file.zero(offset, length)
        return
    nothing = bytes(min(length, _PIECE))
    while length:
        count = min(length, len(nothing))
        put(file, offset, nothing[:count])
        offset, length = offset + count, length - count

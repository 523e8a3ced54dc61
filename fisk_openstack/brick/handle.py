# SPDX-License-Identifier: Apache-2.0
"""A Fisk as a binary file object, read and written over NBD."""

import errno
import io
import os
from typing import Any

from fisk_core.client import RemoteEngine
from fisk_core.client.disks import RemoteDisk
from fisk_core.errors import FiskError


class FiskHandle(io.RawIOBase):
    """Seekable, of fixed length, not for several threads at once.

    The Fisk is attached when the first byte is asked for: who only wants to know which Fisk it is, asks
    ``fisk_id`` and disturbs nobody.  Errors are OSError, as of any file.
    """

    def __init__(self, engine: RemoteEngine, fisk_id: str, *, writable: bool) -> None:
        super().__init__()
        self.fisk_id = fisk_id
        self._engine, self._writable = engine, writable
        self._at = 0
        self._disk: RemoteDisk | None = None

    @property
    def disk(self) -> RemoteDisk:
        """The open Fisk; raises what ``RemoteEngine.open_disk`` does."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._disk is None:
            self._disk = self._engine.open_disk(self.fisk_id, writable=self._writable)
        return self._disk

    @property
    def size(self) -> int:
        """Bytes; it is asked for anew where the Fisk is not open."""
        return self._engine.get(self.fisk_id).size if self._disk is None else self._disk.size

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self._writable

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        at = offset + (self.size if whence == os.SEEK_END else base[whence])
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            count = max(0, min(len(view), self.disk.size - self._at))
            self.disk.client.read_into(self._at, view[:count])
        except FiskError as problem:
            raise OSError(problem.errno, str(problem)) from problem
        self._at += count
        return count

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            count = max(0, min(len(view), self.disk.size - self._at))
            if len(view) and not count:
                raise OSError(errno.EFBIG, f"the end of Fisk {self.fisk_id} is reached")
            self.disk.write(self._at, view[:count])
        except FiskError as problem:
            raise OSError(problem.errno, str(problem)) from problem
        self._at += count
        return count

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, without the position being changed."""
        try:
            self.disk.write_zeroes(offset, length)
        except FiskError as problem:
            raise OSError(problem.errno, str(problem)) from problem

    def flush(self) -> None:
        """Make durable what was written."""
        super().flush()
        if self._disk is not None:
            try:
                self._disk.flush()
            except FiskError as problem:
                raise OSError(problem.errno, str(problem)) from problem

    def close(self) -> None:
        """Make durable, and detach; harmless when done twice."""
        if self.closed:
            return
        try:
            super().close()  # it flushes
        finally:
            disk, self._disk = self._disk, None
            if disk is not None:
                disk.close()

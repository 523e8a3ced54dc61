# SPDX-License-Identifier: Apache-2.0
"""A process that writes and verifies a file past the page cache, and says how far it is."""

import mmap
import os
import random
import signal
import time
from pathlib import Path
from struct import Struct

BLOCK = 4096
PATIENCE = 240.0
_COUNT = Struct("=Q")


class Load:
    """Writes a file of ``size`` bytes, block by block in any order; reads each before it is written again."""

    def __init__(self, path: Path, size: int, seed: float) -> None:
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self._random = random.Random(seed)
        self._stop = False
        self._pid = os.fork()
        if not self._pid:
            signal.signal(signal.SIGTERM, self._told)
            try:
                self._work(path, size // BLOCK)
            except BaseException as problem:  # we are a copy: nothing leaves it but a status
                print(f"load: {problem!r}", flush=True)
                os._exit(1)
            os._exit(0)

    @property
    def done(self) -> int:
        """How many blocks were found right and written."""
        count: int = _COUNT.unpack_from(self._shared)[0]
        return count

    def get_through(self, more: int) -> None:
        """Wait until so many more were written; raises AssertionError when it failed or stands still."""
        wanted, deadline = self.done + more, time.monotonic() + PATIENCE
        while self.done < wanted:
            if os.waitpid(self._pid, os.WNOHANG) != (0, 0):
                raise AssertionError(f"the load ended at block {self.done}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the load stands still at block {self.done}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End it, and give ``done``; raises AssertionError when a block was wrong, or could not be read."""
        os.kill(self._pid, signal.SIGTERM)
        _, status = os.waitpid(self._pid, 0)
        if status:
            raise AssertionError(f"the load ended with {status} at block {self.done}")
        return self.done

    def _told(self, number: int, frame: object) -> None:
        self._stop = True

    def _work(self, path: Path, blocks: int) -> None:
        known = [0] * blocks
        with mmap.mmap(-1, BLOCK) as buffer:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
            os.posix_fallocate(fd, 0, blocks * BLOCK)
            while not self._stop:
                number = self.done + 1
                block = self._random.randrange(blocks)
                self._verify(fd, block, known[block], buffer)
                buffer[:] = _content(block, number)
                if os.pwrite(fd, buffer, block * BLOCK) != BLOCK:
                    raise AssertionError(f"a short write of block {block}")
                if number % 16 == 0:
                    os.fdatasync(fd)
                known[block] = number
                _COUNT.pack_into(self._shared, 0, number)
            for block in range(blocks):
                self._verify(fd, block, known[block], buffer)
            os.close(fd)

    def _verify(self, fd: int, block: int, number: int, buffer: mmap.mmap) -> None:
        found = os.preadv(fd, [buffer], block * BLOCK)
        wanted = _content(block, number) if number else bytes(BLOCK)
        if found != BLOCK or buffer[:] != wanted:
            raise AssertionError(f"block {block} is not what was written as number {number}")


def _content(block: int, number: int) -> bytes:
    return Struct("=QQ").pack(block, number) * (BLOCK // 16)

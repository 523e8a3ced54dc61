# SPDX-License-Identifier: Apache-2.0
"""What all rows share: where to work, how long to measure, and material made once, when first asked for."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import peers
from bench.fio import Load, Outcome, Target, run
from bench.processes import MIB, call
from fisk_core.engine import Engine

GIB = 1 << 30


@dataclass(frozen=True)
class Effort:
    """How much work a run takes: rounds of every comparison, seconds of every load, bytes of a hot file.

    ``wide``: bytes of the files in which every cluster of 64 KiB is touched once.
    """

    rounds: int
    seconds: float
    size: int
    wide: int
    lineage: int


FULL = Effort(rounds=5, seconds=3, size=1 * GIB, wide=4 * GIB, lineage=1000)
QUICK = Effort(rounds=1, seconds=1, size=1 * GIB, wide=1 * GIB, lineage=100)


class Bench:
    """The scratch directory of one run, with the effort to make and the material made so far."""

    def __init__(self, directory: Path, effort: Effort) -> None:
        self.directory = directory / "run"
        self.effort = effort
        self.home = self.directory / "home"
        # The path of a unix socket must be short, whatever the checkout is called.
        self._sockets = tempfile.TemporaryDirectory(prefix="fisk-bench-")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)

    def close(self) -> None:
        """Remove everything that was made."""
        self._sockets.cleanup()
        shutil.rmtree(self.directory, ignore_errors=True)

    @cached_property
    def raw_file(self) -> Path:
        """A file of random bytes, as large as a hot file."""
        return self._file_of_noise("peer.raw", self.effort.size)

    @cached_property
    def wide_file(self) -> Path:
        """A file of random bytes, as large as a wide one."""
        return self._file_of_noise("wide.raw", self.effort.wide)

    def _file_of_noise(self, name: str, size: int) -> Path:
        path = self.directory / name
        with path.open("wb") as file:
            for chunk in noise(size):
                file.write(chunk)
        return path

    @cached_property
    def qcow2_file(self) -> Path:
        """The same bytes as qcow2, every cluster allocated."""
        path = self.directory / "peer.qcow2"
        options = ["-O", "qcow2", "-o", "preallocation=metadata"]
        call(["qemu-img", "convert", "-U", "-f", "raw", *options, str(self.raw_file), str(path)])
        return path

    def overlay_file(self) -> Path:
        """Give a new, empty qcow2 file over ``wide_file``, replacing the last one."""
        path = self.directory / "overlay.qcow2"
        path.unlink(missing_ok=True)
        call(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(self.wide_file), "-F", "raw", str(path)])
        return path

    def engine(self) -> Engine:
        """Open our engine on the home of this run; to be closed by the caller."""
        return Engine.open(self.home)

    def filled(self, name: str, size: int = 0) -> str:
        """Make sure there is a live Fisk ``name`` as large as a hot file, and all written; gives ``name``."""
        size = size or self.effort.size
        with self.engine() as engine:
            if not engine.list(name=name):
                engine.create(name, size)
                fill(engine, name, size)
        return name

    def serve(self, name: str, *, read_only: bool = False) -> AbstractContextManager[peers.Server]:
        """Serve our Fisk ``name``."""
        return peers.fisk(self.sockets, self.home, name, read_only=read_only)

    def serve_tcp(self, home: Path, name: str) -> AbstractContextManager[peers.Server]:
        """Serve the Fisk ``name`` of another home directory over TCP."""
        return peers.fisk_tcp(self.sockets, home, name)

    @property
    def sockets(self) -> Path:
        """A directory whose name is short enough for unix sockets."""
        return Path(self._sockets.name)

    def load(
        self, target: Target, load: Load, *, size: int = 0, seconds: float = 0, once: bool = False
    ) -> Outcome:
        """Run ``load`` for the seconds of the effort, all dirty pages written back before it starts."""
        os.sync()
        return run(
            target,
            load,
            size=size or self.effort.size,
            seconds=seconds or self.effort.seconds,
            once=once,
            cwd=self.directory,
        )


def noise(size: int) -> Iterator[bytes]:
    """Give ``size`` bytes that do not compress, in chunks of 4 MiB; the same ones every time."""
    chunk = random.Random(1).randbytes(4 * MIB)
    for start in range(0, size, len(chunk)):
        yield chunk[: size - start]


def fill(engine: Engine, name: str, size: int) -> None:
    """Write all of the live Fisk ``name``."""
    with engine.open_disk(name, writable=True) as disk:
        offset = 0
        for chunk in noise(size):
            disk.write(offset, chunk)
            offset += len(chunk)
        disk.flush()

# SPDX-License-Identifier: Apache-2.0
"""A fiskd of our own for measurements, on a home directory that is made for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchFailed, wait_until
from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError

_START_SECONDS = 30
_STOP_SECONDS = 120


@dataclass(frozen=True)
class Daemon:
    """A running fiskd."""

    home: Path
    pid: int

    @property
    def url(self) -> str:
        return f"unix://{self.home / 'run' / 'fiskd.sock'}"

    def client(self) -> RemoteEngine:
        """Give a client of it; to be closed by the caller."""
        return RemoteEngine.open(self.url)

    def answers(self) -> bool:
        with self.client() as client:
            try:
                client.about()
            except FiskError:
                return False
        return True


@contextmanager
def fiskd(home: Path) -> Iterator[Daemon]:
    """Run a daemon; at the end its workers end too, and its home directory is removed."""
    home.mkdir(parents=True)
    (home / "fisk.conf").write_text("[nbd]\nlisten = 127.0.0.1:0\n")
    log = home / "fiskd.log"
    program = Path(sys.executable).with_name("fiskd")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program)],
            env={**os.environ, "FISK_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    daemon = Daemon(home, process.pid)

    def ready() -> bool:
        if process.poll() is not None:
            raise BenchFailed(f"fiskd ended at once: {log.read_text().strip().rpartition(chr(10))[2]}")
        return daemon.answers()

    try:
        wait_until(ready, "fiskd answers", _START_SECONDS)
        yield daemon
    finally:
        subprocess.run(
            [str(program), "--home", str(home), "stop", "--drain"], check=False, capture_output=True
        )
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(home, ignore_errors=True)

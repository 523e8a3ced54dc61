# SPDX-License-Identifier: Apache-2.0
"""What the guest has: a daemon, forked, and what its kernel says of a block device."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# All that a daemon needs, once for every fork: importing it takes most of the time it needs to start.
import fisk_core.api.app
import fisk_core.daemon.daemon  # noqa: F401
from fisk_core.access.kernel_nbd import KernelNbd
from fisk_core.daemon.main import main
from tests.fiskds import Fiskd

PATIENCE = 240.0


def until(true: Callable[[], bool], what: str) -> None:
    """Wait; raises AssertionError when it does not become true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        expect(time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.02)


def expect(holds: bool, what: str) -> None:
    """Raise AssertionError unless it is so."""
    if not holds:
        raise AssertionError(f"it is not so: {what}")


def run(*command: object) -> str:
    """Run a program; gives what it printed, raises AssertionError when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    expect(done.returncode == 0, f"{command[0]} works: {done.stderr.strip()}")
    return done.stdout.strip()


class Daemon(Fiskd):
    """A fiskd forked from this process; it may be killed and started again."""

    _pid = 0

    def spawn(self) -> None:
        self._pid = os.fork()
        if not self._pid:
            with self.log_path.open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os._exit(main(["--home", str(self.home)]))

    def wait_healthy(self) -> None:
        until(self._is_healthy, "fiskd serves")

    def _is_healthy(self) -> bool:
        try:
            return self.request("GET", "/healthz", timeout=5)[0] == 200
        except OSError:  # it does not listen yet
            return False

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def drain(self) -> None:
        expect(self._end(signal.SIGUSR2) == 0, "fiskd ends in good order")

    def _end(self, number: int) -> int:
        os.kill(self._pid, number)
        return os.waitpid(self._pid, 0)[1]


class Device:
    """A block device, as sysfs has it."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(str(path))

    def __getitem__(self, name: str) -> str:
        path = Path("/sys/block") / self.path.name / name
        return path.read_text().strip() if path.exists() else ""

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self["size"]) * 512

    @property
    def kept(self) -> KernelNbd:
        """What Fisk has for it."""
        return KernelNbd(Path(self["backend"].removeprefix("fisk:")))

    def kill_keeper(self) -> None:
        os.kill(int(self.kept.helper.pid_file.read_text().split()[0]), signal.SIGKILL)

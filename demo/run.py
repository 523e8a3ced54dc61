# SPDX-License-Identifier: Apache-2.0
"""Programs the demonstration calls.

Guarantees: a program that fails becomes one clear ``DemoFailed`` with the last lines it said, and every
process started through ``Processes`` has ended when its ``with`` block is left, whatever happened inside.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

Command = Sequence[str | os.PathLike[str]]
Found = TypeVar("Found")
_SYSTEM_PATH = "/usr/sbin:/sbin"  # mke2fs and the like; not in everybody's path


class DemoFailed(Exception):
    """An expectation was not met; the message is one clear line."""


def expect(holds: bool, message: str) -> None:
    """Raise DemoFailed with ``message`` unless ``holds``."""
    if not holds:
        raise DemoFailed(message)


def call(
    command: Command, *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
) -> str:
    """Run ``command`` to its end and give what it printed; raises DemoFailed when it does not succeed."""
    words = [os.fspath(word) for word in command]
    environment = {**(os.environ if env is None else env)}
    environment["PATH"] = f"{environment.get('PATH', '')}:{_SYSTEM_PATH}"
    try:
        done = subprocess.run(
            words,
            env=environment,
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise DemoFailed(f"{words[0]} is not installed; `make demo-core` installs what it needs") from None
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"`{' '.join(words)}` did not end within {timeout:.0f} s") from None
    if done.returncode:
        said = _last_line(done.stderr or done.stdout)
        raise DemoFailed(f"`{' '.join(words)}` failed ({done.returncode}): {said}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def wait_for(probe: Callable[[], Found | None], what: str, timeout: float) -> Found:
    """Ask ``probe`` every 20 ms until it gives something; raises DemoFailed after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while (found := probe()) is None:
        expect(time.monotonic() < deadline, f"{what}: nothing within {timeout:.0f} s")
        time.sleep(0.02)
    return found


class Processes:
    """Background processes, ended one by one through their own handles, the youngest first."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Command, *, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``command``; its output goes to the file ``log``."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                [os.fspath(word) for word in command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], timeout: float = 10) -> int:
        """Ask ``process`` to end, insist after ``timeout`` seconds; gives its exit status."""
        process.terminate()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._running.remove(process)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running.copy()):
            self.stop(process)

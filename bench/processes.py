# SPDX-License-Identifier: Apache-2.0
"""Programs a measurement needs, and what the kernel says about a process.

Guarantees: only processes started here are ever signalled, by their id, and a server's ``with`` block ends
when the process has ended.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MIB = 1 << 20


class BenchFailed(Exception):
    """A measurement could not be made; the message is one clear line."""


def call(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
) -> str:
    """Run ``command`` to its end and give what it printed; raises BenchFailed when it does not succeed."""
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
        raise BenchFailed(f"{command[0]}: {problem}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchFailed(
            f"{command[0]} failed ({done.returncode}): {said[-1] if said else 'it said nothing'}"
        )
    return done.stdout


def wait_until(holds: Callable[[], bool], what: str, timeout: float = 15) -> None:
    """Ask every 10 ms until ``holds()``; raises BenchFailed after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise BenchFailed(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether process ``pid`` runs; one that ended and was not collected yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def end(pid: int) -> None:
    """End process ``pid``, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
            wait_until(lambda: not alive(pid), f"process {pid} ends", timeout=5)
        except ProcessLookupError:
            return
        except BenchFailed:
            continue
        return


def private_bytes(pid: int) -> int:
    """Give the bytes of memory only process ``pid`` uses (Private_Clean + Private_Dirty)."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Private_Clean", "Private_Dirty"):
            total += int(value.split()[0]) * 1024
    return total


def drop_page_cache() -> None:
    """Write back everything and empty the page cache; needs root (PermissionError)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1\n")

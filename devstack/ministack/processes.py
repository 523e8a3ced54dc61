# SPDX-License-Identifier: Apache-2.0
"""Daemons that outlive the command which started them.

Each has a record ``run/<name>.json``: process id and the time the kernel says it started, so that an id
used again by another process is never taken for ours.  Only processes with a record are ever signalled.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from devstack.ministack.errors import MinistackError

_STOP_SECONDS = 20


@dataclass(frozen=True)
class Daemon:
    """One process group, led by ``pid`` since ``started`` (clock ticks after boot)."""

    name: str
    pid: int
    started: int

    def alive(self) -> bool:
        """Whether it runs; one that ended and was not collected yet does not."""
        return _started(self.pid) == self.started


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Daemons:
    """The daemons whose records are in ``directory``; their output goes to ``logs``."""

    def __init__(self, directory: Path, logs: Path) -> None:
        self.directory, self.logs = directory, logs

    def get(self, name: str) -> Daemon | None:
        """Give the daemon ``name`` if it runs."""
        try:
            known = Daemon(**json.loads(self._record(name).read_text()))
        except FileNotFoundError:
            return None
        return known if known.alive() else None

    def since(self, name: str) -> datetime:
        """Give when the daemon, which has a record, was started, in whole seconds."""
        return datetime.fromtimestamp(int(self._record(name).stat().st_mtime), UTC)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Daemon:
        """Start ``command`` unless the daemon runs already."""
        running = self.get(name)
        if running:
            return running
        with (self.logs / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(env or {})},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = Daemon(name, process.pid, _started(process.pid) or 0)
        record = self._record(name)
        record.with_suffix(".new").write_text(json.dumps(asdict(daemon)))
        record.with_suffix(".new").replace(record)
        return daemon

    def stop(self, name: str, *, seconds: float = _STOP_SECONDS, number: int = signal.SIGTERM) -> None:
        """End the daemon and whatever it started in its group, politely first."""
        daemon = self.get(name)
        if daemon:
            for each, patience in ((number, seconds), (signal.SIGKILL, _STOP_SECONDS)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(daemon.pid, each)
                if waited(lambda: not daemon.alive() and not _group(daemon.pid), patience):
                    break
        self._record(name).unlink(missing_ok=True)

    def signal(self, name: str) -> None:
        """Ask the daemon to end, without waiting."""
        daemon = self.get(name)
        if daemon:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGTERM)

    def names(self) -> list[str]:
        """Give the names of all daemons that have a record."""
        return sorted(path.stem for path in self.directory.glob("*.json"))

    def wait(self, name: str, ready: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until ``ready()``; raises MinistackError when the daemon ends before, or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.get(name) is None:
                raise MinistackError(f"{name} ended; its last words:\n{self.last_words(name)}")
            if time.monotonic() > deadline:
                raise MinistackError(f"{name}: not ready within {seconds:.0f} s; see {self.logs}/{name}.out")
            time.sleep(0.05)

    def last_words(self, name: str, lines: int = 8) -> str:
        """Give the end of what the daemon printed."""
        path = self.logs / f"{name}.out"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _record(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _group(leader: int) -> bool:
    """Whether a process of the group is left that is no zombie."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and fields[0] not in "ZX":
                    return True
    return False


def waited(holds: Callable[[], bool], seconds: float) -> bool:
    """Ask until ``holds()``, for ``seconds`` at most; gives whether it came to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def call(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdin: str = "",
) -> str:
    """Run a program to its end and give what it printed; raises MinistackError with its last line."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MinistackError(f"{words[0]} is not installed") from None
    if log:
        with log.open("a") as file:
            file.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise MinistackError(f"{' '.join(words[:3])} failed ({done.returncode}): {said[-1] if said else ''}")
    return done.stdout

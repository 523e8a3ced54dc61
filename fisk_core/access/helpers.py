# SPDX-License-Identifier: Apache-2.0
"""Helper processes that outlive whoever started them, and can be found and ended by any later process.

Each has a lock file, which it inherits locked and holds as long as it lives, and a file with its process id
and start time, which it writes itself before it becomes the program asked for.  So:

- the lock held means it runs, and nothing else does, also after a crash of its maker at any moment;
- an id is used only while the lock is held and the start time matches: a re-used id is never hit.

The helper is nobody's child here: it belongs to init (or the next sub-reaper), and ends where it wants.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fisk_core import locks
from fisk_core.dataplane import scope
from fisk_core.errors import InUse, PoolError, from_oserror

START_SECONDS = 15.0
END_SECONDS = 10.0
"""How long a helper may take after SIGTERM before it is killed."""
_KILL_SECONDS = 10.0
_PAUSE = 0.01
_LAST_WORDS = 500

# proc_pid_stat(5): the 1st field is the id, the 22nd the start time; the name of a shell has no spaces.
_LAUNCH = """(
read -r pid _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ start _ </proc/self/stat &&
echo "$pid $start" >"$0.new" && mv -f "$0.new" "$0" && exec "$@"
) &"""


class Helper:
    """One helper process, running or not; its files are ``directory/name.*``."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.lock = directory / f"{name}.lock"
        self.pid_file = directory / f"{name}.pid"
        self.log = directory / f"{name}.log"

    @property
    def running(self) -> bool:
        return locks.is_held(self.lock)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the program unless it runs already, in its directory: short names of sockets work there."""
        try:
            lock = locks.acquire(self.lock)
        except InUse:
            return
        with lock:
            self.pid_file.unlink(missing_ok=True)
            try:
                with self.log.open("wb") as log:
                    subprocess.run(
                        ["/bin/sh", "-c", _LAUNCH, str(self.pid_file), *scope.prefix(), *arguments],
                        env=scope.environment(**(environment or {})),
                        pass_fds=[lock.fd, *pass_fds],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=self.lock.parent,
                        start_new_session=True,
                        check=True,
                    )
            except OSError as exc:
                raise from_oserror(exc, f"start {arguments[0]}") from exc

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until the helper is ready; raises PoolError with its last words when it ended instead."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if not self.running and not ready():
                raise PoolError(f"{self.name} ended at once: {self.last_words()}")
            if time.monotonic() > deadline:
                raise PoolError(f"{self.name} was not ready after {START_SECONDS:g} s: {self.last_words()}")
            time.sleep(_PAUSE)

    def last_words(self) -> str:
        """Give the end of what the helper printed, as one line."""
        with suppress(FileNotFoundError):
            return " ".join(self.log.read_text(errors="replace")[-_LAST_WORDS:].split()) or "it said nothing"
        return "it said nothing"

    def end(self) -> None:
        """Have it end, by force after a while; one that does not run is no error.  Raises PoolError."""
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            deadline = time.monotonic() + seconds
            while self.running and time.monotonic() < deadline:
                with self._pidfd() as pidfd:
                    if pidfd is None:  # not written yet, or the lock is about to be free
                        time.sleep(_PAUSE)
                        continue
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, number)
                    _wait(pidfd, deadline)
        if self.running:
            raise PoolError(f"{self.name} does not end; its process id is in {self.pid_file}")

    def remove(self) -> None:
        """Remove the files of a helper that does not run."""
        for path in (
            self.pid_file,
            self.pid_file.with_name(f"{self.pid_file.name}.new"),
            self.log,
            self.lock,
        ):
            path.unlink(missing_ok=True)

    @contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        """Open the process, None when there is none that is surely ours."""
        try:
            pid, start = self.pid_file.read_text().split()
            pidfd = os.pidfd_open(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            yield None
            return
        try:
            # Looked at after opening: from here on the descriptor means this process and no later one.
            yield pidfd if _start_of(int(pid)) == start else None
        finally:
            os.close(pidfd)


def _start_of(pid: int) -> str | None:
    """Give the start time of a process, in ticks since the host started."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]


def _wait(pidfd: int, deadline: float) -> None:
    """Wait until the process has ended."""
    with closing(select.epoll()) as poll:
        poll.register(pidfd, select.EPOLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()))

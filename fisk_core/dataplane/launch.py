# SPDX-License-Identifier: Apache-2.0
"""Starting workers: in place of this process, or as a child."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from typing import IO

from fisk_core import errors, files
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.dataplane.worker import to_json

START_SECONDS = 30.0


def _instructions(spec: DiskSpec, options: ServeOptions) -> IO[str]:
    """Give an open, unnamed file that tells a worker what to do."""
    instructions = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the caller passes its descriptor on
    try:
        instructions.write(to_json(spec, options))
        instructions.seek(0)
    except BaseException:
        instructions.close()
        raise
    return instructions


def _environment() -> dict[str, str]:
    # One small process for each Fisk: numpy's thread pools would only cost memory.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def exec_worker(spec: DiskSpec, options: ServeOptions, lock_fd: int | None) -> None:
    """Become the worker: this process is replaced and its signals are the worker's."""
    instructions = _instructions(spec, replace(options, lock=lock_fd))
    for fd in (instructions.fileno(), lock_fd):
        if fd is not None:
            os.set_inheritable(fd, True)
    arguments = [sys.executable, "-m", "fisk_core.dataplane", str(instructions.fileno())]
    os.execve(sys.executable, arguments, _environment())


class Worker:
    """A worker that is our child."""

    def __init__(self, process: "subprocess.Popen[str]", report: IO[str]) -> None:
        self._process, self._report = process, report
        self.pid = process.pid
        self.uris: list[str] = []

    @property
    def uri(self) -> str:
        return self.uris[0]

    def wait_ready(self) -> None:
        """Wait until it listens; raises what kept it from doing so."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended() or errors.PoolError("the worker ended before it listened")
        self.uris = [line.strip()]

    def stop(self) -> None:
        """Have it make everything durable and end; raises PoolError when it could not."""
        self._process.terminate()
        if error := self._ended():
            raise error

    def wait_ended(self) -> None:
        """Wait until it ends by itself."""
        self._process.wait(START_SECONDS)

    def _ended(self) -> errors.FiskError | None:
        """Wait for its end; gives the error it reports, or that its exit status stands for."""
        status = self._process.wait(START_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        with self._report as report, files.named("read", "what the worker said"):
            report.seek(0)
            message = report.read().strip().removeprefix("fisk: ")
        if not status:
            return None
        kind = errors.by_status(status) if message else errors.PoolError
        return kind(message or f"the worker ended with status {status}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_worker(
    spec: DiskSpec,
    *,
    unix: str | None = None,
    lock_fd: int | None = None,
    options: ServeOptions | None = None,
) -> Worker:
    """Start a worker as a child and wait until it listens."""
    options = options or ServeOptions(unix=unix, announce=True)
    with files.named("start", "a worker"), ExitStack() as stack:
        report = stack.enter_context(tempfile.TemporaryFile("w+"))
        instructions = stack.enter_context(_instructions(spec, replace(options, lock=lock_fd)))
        passed = [fd for fd in (instructions.fileno(), report.fileno(), lock_fd) if fd is not None]
        process = subprocess.Popen(
            [sys.executable, "-m", "fisk_core.dataplane", str(instructions.fileno()), str(report.fileno())],
            pass_fds=passed,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
        )
        stack.pop_all()  # the worker's handle closes the report
        instructions.close()
    worker = Worker(process, report)
    worker.wait_ready()
    return worker

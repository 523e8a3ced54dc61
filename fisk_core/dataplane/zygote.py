# SPDX-License-Identifier: Apache-2.0
"""A process with everything a worker needs already loaded, which forks workers on request.

A forked worker starts in milliseconds and shares the interpreter and libraries with all others.  The
zygote holds no Fisk and no lock; when it dies its workers go on, only new ones need another zygote.

Requests and answers are JSON messages on a SOCK_SEQPACKET pair.  A request carries descriptors: where the
worker's output goes, then its lock if it has one, or the socket that tells a successor what to go on with.
``{"pid": n}`` answers it; ``{"exited": n, "status": s}`` tells of a worker that ended.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, TextIO

from fisk_core import errors
from fisk_core.dataplane import descriptors, lines, scope, worker
from fisk_core.dataplane.process import told
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import DiskSpec

_MESSAGE = 1 << 18
_GONE = "the process that starts workers is gone"


def _send(sock: socket.socket, message: dict[str, Any], fds: "list[int] | None" = None) -> None:
    descriptors.send(sock, json.dumps(message).encode(), fds or [])


def _receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Give a message and its descriptors; (None, []) at the end."""
    try:
        data, fds = descriptors.receive(sock, _MESSAGE, 8)
    except ConnectionResetError:  # the other end closed with something of ours unread
        return None, []
    return (json.loads(data) if data else None), fds.take_all()


class Zygote:
    """A handle on a zygote process; close it to end the zygote, not its workers."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = scope.environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        with theirs:
            self._process = subprocess.Popen(
                [*scope.prefix(), sys.executable, "-m", "fisk_core.dataplane.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._exited: dict[int, int] = {}

    def spawn(
        self, spec: DiskSpec, options: ServeOptions, lock_fd: int | None = None
    ) -> tuple[int, list[str]]:
        """Start a worker and wait until it listens; gives its process id and NBD URIs.

        Raises what kept it from serving, PoolError when the zygote is gone.
        """
        work = worker.to_json(spec, replace(options, announce=True))
        pid, output = self._request({"work": work}, [] if lock_fd is None else [lock_fd])
        return pid, self._serving(pid, output)

    def succeed(self, control_path: "str | os.PathLike[str]") -> tuple[int, list[str]]:
        """Start a worker that goes on where the one listening at ``control_path`` stops.

        It has that one's clients, listeners and lock; the other one ends.  Gives process id and NBD URIs.
        When this raises, the other one goes on, unless it came to an end by itself.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                pid, output = self._request({"work": None}, [theirs.fileno()])
            refusal = None
            try:
                lines.call(control_path, {"op": "handover"}, give=[ours.detach()])
            except errors.FiskError as exc:
                refusal = exc  # or it ended before it could answer, and the successor serves
        try:
            return pid, self._serving(pid, output)
        except errors.FiskError as exc:
            if isinstance(exc, errors.Cancelled) and refusal is not None:
                raise refusal from exc
            raise

    def _request(self, request: dict[str, Any], fds: list[int]) -> tuple[int, IO[str]]:
        """Have a process forked; gives its id and its output."""
        output, theirs = os.pipe()
        try:
            _send(self._sock, request, [theirs, *fds])
            return self._answer("pid"), os.fdopen(output)
        except (ConnectionError, errors.PoolError) as exc:
            os.close(output)
            raise errors.PoolError(_GONE) from exc
        finally:
            os.close(theirs)

    def _serving(self, pid: int, output: IO[str]) -> list[str]:
        """Wait until a worker serves; gives its URIs, raises what kept it from doing so."""
        with output:
            first = output.readline().strip()
            if first.startswith("nbd"):
                return [first]
            message = (first + output.read()).removeprefix("fisk: ").strip()
        raise errors.by_status(self.wait(pid))(message or "the worker ended before it listened")

    def wait(self, pid: int) -> int:
        """Wait for a worker to end; gives its exit status, negative for the signal that ended it."""
        while pid not in self._exited:
            self._answer(None)
        return self._exited.pop(pid)

    def _answer(self, key: str | None) -> int:
        """Take messages until the one with ``key`` (or one of any kind); notes the workers that ended."""
        while True:
            message, _ = _receive(self._sock)
            if message is None:
                raise errors.PoolError(_GONE)
            if "exited" in message:
                self._exited[message["exited"]] = message["status"]
            if key is None or key in message:
                return int(message.get(key or "exited", 0))

    def close(self) -> None:
        self._sock.close()
        self._process.wait()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fork(request: dict[str, Any], fds: list[int], sock: socket.socket) -> int:
    """Fork a worker; its output goes to the first descriptor, the others stay open as its locks."""
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid
    status = 1
    try:
        sock.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(fds[0], 1)
        with os.fdopen(fds[0], "w") as report:  # the log goes where that of the zygote goes
            status = _work(request["work"], fds[1:], report)
    except BrokenPipeError:
        pass  # whoever started it heard that it serves, and listens no more
    except BaseException:
        traceback.print_exc()  # nobody else would: the process ends here
    finally:
        os._exit(status)


def _work(work: str | None, fds: list[int], report: TextIO) -> int:
    """Be a worker; gives the exit status."""
    if work is None:
        return told(report, lambda: worker.succeed(socket.socket(fileno=fds[0])))
    spec, options = worker.from_json(work)
    return worker.serve(spec, replace(options, lock=fds[0] if fds else None), report)


def _reap(sock: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _send(sock, {"exited": pid, "status": os.waitstatus_to_exitcode(status)})


def main(sock: socket.socket) -> None:
    """Fork a worker for each request until the other end closes."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([sock.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(sock)
        if sock.fileno() in ready:
            request, fds = _receive(sock)
            if request is None:
                return
            _send(sock, {"pid": _fork(request, fds, sock)})


if __name__ == "__main__":
    worker.preload()
    with suppress(BrokenPipeError):  # whoever asked was killed; what was started is found by its mark
        main(socket.socket(fileno=int(sys.argv[1])))

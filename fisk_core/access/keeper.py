# SPDX-License-Identifier: Apache-2.0
"""The process behind a direct attachment: ``python -m fisk_core.access.keeper JSON``.

It is not in the data path.  It holds the Fisk's lock for those who write to the file, and answers at the
Fisk's control socket in the worker's place, so that the engine takes a snapshot as it does of any served
Fisk.  For a frozen Fisk it holds the assembled file, which is gone when it ends.

It may be killed at any moment: ``whole`` says why nothing breaks.  A mark beside the Fisk's lock keeps
others from writing meanwhile.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fisk_core
from fisk_core import errors, locks
from fisk_core.access import whole
from fisk_core.blockmap import load_map, read_log_header
from fisk_core.dataplane import unixsocket
from fisk_core.dataplane.spec import DiskSpec
from fisk_core.pools import open_pool
from fisk_core.pools.base import Kind

LOG = logging.getLogger(__name__)

_MAX_LINE = 1 << 20
_CLIENT_SECONDS = 10.0
_MAKING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a keeper is told: the Fisk as it is now, and the paths of home and attachment."""

    spec: dict[str, Any]
    path: str
    control: str
    making: str
    trimming: str
    mark: str


class Keeper:
    """Keeps one live Fisk whose layer is written by others."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._spec = DiskSpec(**task.spec)
        self._pool = open_pool(self._spec.pool)
        self._map, self._size = self._spec.map_id, self._spec.size
        self._untrimmed: tuple[str, int] | None = None
        """a period that has its copy of the file, and owns more than it has to; its size"""
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "status": self._status,
            "prepare": self._prepare,
            "part": self._part,
            "switch": self._switch,
            "resize": self._resize,
            "barrier": self._barrier,
            "resume": lambda _: {},
        }

    def run(self) -> None:
        """Answer until told to stop."""
        point(Path(self._task.path), whole.path_of(self._pool, self._map))
        with unixsocket.listen(self._task.control) as listener:
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(_CLIENT_SECONDS)
                    if self._serve(sock):
                        break
        Path(self._task.control).unlink(missing_ok=True)

    def _serve(self, sock: socket.socket) -> bool:
        """Answer one client; True when it said stop."""
        try:
            with sock.makefile("rwb") as lines:
                while line := lines.readline(_MAX_LINE):
                    request = json.loads(line)
                    stopping = request.get("op") == "stop"
                    lines.write(json.dumps(self._answer(request)).encode() + b"\n")
                    lines.flush()
                    if stopping:
                        return True
        except (OSError, ValueError) as exc:
            LOG.warning("a client of the control socket: %s", exc)
        return False

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("op")
        if name == "stop":
            # Whoever forces the end of the Fisk takes the file from its users.
            Path(self._task.mark).unlink(missing_ok=True)
            return {"ok": True}
        try:
            if name not in self._operations:
                # Pausing, limiting and counting take somebody in the data path.
                raise errors.Unsupported(
                    f"Fisk '{self._spec.name}' is attached as 'direct': no {name!r} there"
                )
            return {"ok": True, **self._operations[name](request)}
        except errors.FiskError as exc:
            return {"ok": False, "error": type(exc).__name__, "message": str(exc)}
        except OSError as exc:
            failure = errors.from_oserror(exc, str(name))
            return {"ok": False, "error": type(failure).__name__, "message": str(failure)}

    def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "host_pid": os.getpid(),
            "version": fisk_core.__version__,
            "fisk_id": self._spec.fisk_id,
            "map_id": self._map,
            "size": self._size,
            "read_only": False,
            "attributes": self._spec.attributes,
            "connections": 0,
            "uri": None,
            "uris": [],
            "path": self._task.path,
        }

    def _switch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Go on in another period: all of it, or what is still to be done."""
        self._prepare(request)
        self._part(request)
        if self._untrimmed is None:
            return self._barrier({})
        whole.trim(self._pool, *self._untrimmed, Path(self._task.trimming))
        self._untrimmed = None
        return {}

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what can be done before the moment of a snapshot."""
        following = DiskSpec(**request["spec"])
        if following.map_id != self._map:
            self._check(following)
            with self._making():
                whole.prepare(
                    self._pool,
                    self._map,
                    following.map_id,
                    self._size,
                    lambda path: point(Path(self._task.path), path),
                )
        return {}

    def _part(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the old period keep what the file holds at this moment; ``prepare`` came before."""
        following = DiskSpec(**request["spec"])
        if following.map_id != self._map:
            self._check(following)
            with self._making():
                whole.part(self._pool, self._map, following.map_id)
            self._map, self._untrimmed = following.map_id, (self._map, self._size)
        return {}

    def _making(self) -> locks.Lock:
        """Hold this while a clone has a name that is not the catalog's, before it takes its place."""
        return locks.acquire(Path(self._task.making), shared=True, timeout=_MAKING_SECONDS)

    def _check(self, following: DiskSpec) -> None:
        """Raise InUse for what is no new period on top of what the file is now."""
        same = following.pool["name"] == self._spec.pool["name"]
        if not same or following.base_id != self._map or following.base_size < self._size:
            raise errors.InUse(
                f"Fisk '{self._spec.name}' is attached as 'direct': its users would go on with what it was; "
                f"detach it first"
            )

    def _resize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Grow the file; the log first, so that nothing is written that nobody owns."""
        size = int(request["size"])
        if size < self._size:
            raise errors.InUse(f"Fisk '{self._spec.name}' is attached as 'direct': detach it to shrink it")
        whole.own_all(self._pool, read_log_header(self._pool, self._map), size)
        with self._pool.open_device(Kind.LAYER, self._map, writable=True) as layer:
            if layer.size < size:
                layer.truncate(size)
            layer.flush()
        self._size = size
        return {}

    def _barrier(self, _: dict[str, Any]) -> dict[str, Any]:
        with self._pool.open_device(Kind.LAYER, self._map, writable=True) as layer:
            layer.flush()
        return {}


def keep_frozen(task: Task) -> None:
    """Hold a file with the content of a frozen Fisk until told to end."""
    spec = DiskSpec(**task.spec)
    pool = open_pool(spec.pool)
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    with pool.staging_file() as file:
        source = load_map(pool, spec.map_id, spec.size)
        fd = os.open(file, os.O_RDWR)
        try:
            whole.assemble(pool, source, fd, str(file))
        finally:
            os.close(fd)
            source.close()
        file.chmod(0o400)
        point(Path(task.path), file)
        signal.sigwait(ending)
        Path(task.path).unlink(missing_ok=True)


def point(link: Path, target: Path) -> None:
    """Have the symbolic link lead to ``target`` from one moment to the next."""
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, link)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    task = Task(**json.loads(sys.argv[1]))
    if task.spec["read_only"]:
        keep_frozen(task)
    else:
        Keeper(task).run()


if __name__ == "__main__":
    main()

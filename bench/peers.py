# SPDX-License-Identifier: Apache-2.0
"""Servers to measure: each a ``with`` block giving a URI and a process id.

All listen on a unix socket in the scratch directory and use the page cache as they do by default.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.fio import Target
from bench.processes import BenchFailed, call, end, wait_until

_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """A running server."""

    uri: str
    socket: Path
    pid: int

    @property
    def target(self) -> Target:
        """The server as fio names it."""
        return Target.nbd(self.uri)


@contextmanager
def nbdkit(scratch: Path, path: Path) -> Iterator[Server]:
    """nbdkit's file plugin on ``path``; in the background, -f would tie it to the thread that began it."""
    address = _new_socket(scratch)
    pid_file = address.with_suffix(".pid")
    call(["nbdkit", "-P", str(pid_file), "-U", str(address), "file", str(path)])
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), "nbdkit listens")
    pid = int(pid_file.read_text())
    try:
        yield Server(f"nbd+unix:///?socket={address}", address, pid)
    finally:
        end(pid)
        _remove(address, pid_file)


@contextmanager
def qemu_nbd(scratch: Path, path: Path, image_format: str) -> Iterator[Server]:
    """qemu-nbd on ``path``, with its default cache mode (writeback)."""
    address = _new_socket(scratch)
    command = ["qemu-nbd", "--persistent", "--format", image_format, "--socket", str(address), str(path)]
    with _child(command, address) as pid:
        yield Server(f"nbd+unix:///?socket={address}", address, pid)


@contextmanager
def fisk(scratch: Path, home: Path, name: str, *, read_only: bool = False) -> Iterator[Server]:
    """Our worker on the Fisk ``name`` of ``home``, started the way a user does."""
    address = _new_socket(scratch)
    program = Path(sys.executable).with_name("fisk")
    command = [str(program), "serve", name, "--socket", str(address), *(["--read-only"] if read_only else [])]
    with _child(command, address, {"FISK_HOME": str(home)}) as pid:
        yield Server(f"nbd+unix:///{name}?socket={address}", address, pid)


@contextmanager
def fisk_tcp(scratch: Path, home: Path, name: str) -> Iterator[Server]:
    """The same over TCP on loopback too, which is what ``uri`` names."""
    address, port = _new_socket(scratch), free_port()
    program = Path(sys.executable).with_name("fisk")
    command = [str(program), "serve", name, "--socket", str(address), "--listen", f"127.0.0.1:{port}"]
    with _child(command, address, {"FISK_HOME": str(home)}) as pid:
        yield Server(f"nbd://127.0.0.1:{port}/{name}", address, pid)


def free_port() -> int:
    """Give a TCP port of loopback nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _child(command: list[str], address: Path, extra: Mapping[str, str] | None = None) -> Iterator[int]:
    log = address.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(extra or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def ready() -> bool:
        if process.poll() is not None:
            raise BenchFailed(f"{command[0]} ended at once: {log.read_text().strip().rpartition(chr(10))[2]}")
        return _accepts(address)

    try:
        wait_until(ready, f"{command[0]} listens")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _remove(address, log)


def _new_socket(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch / f"s{next(_numbers)}.sock"


def _accepts(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
        except OSError:
            return False
    return True


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)

# SPDX-License-Identifier: Apache-2.0
"""Calls to QEMU's tools, which read and write the image formats that are not ours.

An image is always opened with its format said outright, through a descriptor of ours (so its name plays no
part and nobody can exchange the file), and with ``backing`` set to nothing: no call here makes QEMU open a
second file.  Whatever reads a foreign image runs under limits of memory, CPU time and wall-clock time.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fisk_core.errors import FiskError, ImageRefused, MissingTool, NoSpace, PoolError
from fisk_core.files import named, scratch_directory, scratch_file

PACKAGES = {"qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "prlimit": "util-linux"}
"""Debian packages of the tools."""

_WITH_BACKING = frozenset({"qcow2", "qed", "vmdk"})  # drivers with a "backing" option to be set to nothing
_READY_SECONDS = 30.0
_COMPLAINT = 1 << 20  # bytes of stderr
_OUR_WORDS = re.compile(r"^[a-z-]+: |Could not open '[^']*': ")  # the tool's name, and the options we gave it
_SHARE = re.compile(rb"\(([0-9.]+)/100%\)")
_NO_CHECK = 63  # qemu-img check: the format has none
_LEAKS = 3  # qemu-img check: space is lost, data is not


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use: bytes of address space, seconds of CPU, seconds altogether."""

    memory: int
    cpu: int | None
    wall: float


LOOK = Limits(1 << 30, 30, 60.0)
"""Reading an image's header."""
CHECK = Limits(4 << 30, 600, 1200.0)
"""Reading all of an image's tables."""
SERVE = Limits(4 << 30, None, 0.0)
"""Reading all of its data: as long as somebody wants it."""


def find(tool: str) -> str:
    """Give the path of a tool; raises MissingTool."""
    path = shutil.which(tool)
    if path is None:
        raise MissingTool(f"{tool} is not installed (Debian package {PACKAGES[tool]})")
    return path


def limited(limits: Limits, tool: str, *arguments: str) -> list[str]:
    """Give the command line that runs ``tool`` under ``limits``, writing no more than a complaint."""
    command = [find("prlimit"), f"--as={limits.memory}", "--core=0", f"--fsize={_COMPLAINT}"]
    if limits.cpu is not None:
        command.append(f"--cpu={limits.cpu}")
    return [*command, "--", find(tool), *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}  # messages end up in ours


def _first_line(stderr: bytes, status: int) -> str:
    """Give the first line of what a tool complained about, without its name and our options."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    text = lines[0] if lines else f"ended with status {status}"
    text = _OUR_WORDS.sub("", text)
    return "".join(char if char.isprintable() else " " for char in text)[:300]


def _mode(fd: int) -> int:
    with named("look at", "the image"):
        return os.fstat(fd).st_mode


def image_options(fd: int, driver: str) -> str:
    """Give QEMU's name for the image behind an inherited descriptor: this driver, this file, nothing else."""
    protocol = "host_device" if stat.S_ISBLK(_mode(fd)) else "file"
    options: dict[str, Any] = {
        "driver": driver,
        "read-only": True,
        "file": {"driver": protocol, "filename": f"/dev/fd/{fd}"},
    }
    if driver in _WITH_BACKING:
        options["backing"] = None
    return "json:" + json.dumps(options)


def _look(fd: int, limits: Limits, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run qemu-img on a foreign image."""
    try:
        return subprocess.run(
            limited(limits, "qemu-img", *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[fd],
            timeout=limits.wall,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImageRefused(f"qemu-img {arguments[0]} did not end within {limits.wall:g} s") from None


def _parse(output: bytes, what: str) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        raise ImageRefused(f"qemu-img {what} gave no sensible answer") from None


def image_info(fd: int, driver: str) -> dict[str, Any]:
    """``qemu-img info`` of an open image; raises ImageRefused where QEMU cannot open it."""
    done = _look(fd, LOOK, "info", "--output=json", image_options(fd, driver))
    if done.returncode:
        raise ImageRefused(f"QEMU cannot open it as {driver}: {_first_line(done.stderr, done.returncode)}")
    info: dict[str, Any] = _parse(done.stdout, "info")
    return info


def check_image(fd: int, driver: str) -> None:
    """``qemu-img check``: raises ImageRefused for an image whose tables contradict themselves.

    Leaked clusters are fine, and so are formats without such a check.
    """
    done = _look(fd, CHECK, "check", "--output=json", image_options(fd, driver))
    if done.returncode in (_NO_CHECK, _LEAKS):
        return
    if done.returncode:
        raise ImageRefused(f"the {driver} image is damaged: {_first_line(done.stderr, done.returncode)}")


def last_data_byte(fd: int, driver: str) -> int:
    """Give where the furthest data ends in the image file (``qemu-img map``); if past its end, it was cut."""
    command = limited(CHECK, "qemu-img", "map", "--output=json", image_options(fd, driver))
    end = 0
    with running(command, pass_fds=[fd], wall=CHECK.wall, error=ImageRefused) as lines:
        for line in lines:  # one extent a line; there may be millions
            extent = _parse(line.strip().strip(b"[],") or b"{}", "map")
            if extent.get("data") and "offset" in extent:
                end = max(end, extent["offset"] + extent["length"])
    return end


@contextmanager
def running(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    wall: float | None = None,
    error: type[FiskError] = PoolError,
) -> Iterator[IO[bytes]]:
    """Run a tool and give its output to be read; it is ended when the block is left early.

    Raises ``error`` with the first line of its complaint when it fails, or runs longer than ``wall`` seconds.
    """
    with scratch_file() as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, pass_fds=pass_fds,
            env=_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        watchdog = threading.Timer(wall, process.kill) if wall is not None else None
        try:
            if watchdog:
                watchdog.start()
            yield process.stdout
            status = process.wait()
            if watchdog and watchdog.finished.is_set():
                raise error(f"it did not end within {wall:g} s")
        finally:
            if watchdog:
                watchdog.cancel()
            _end(process)
        if status:
            raise _failure(error, _first_line(_complaint(stderr), status))


def _complaint(stderr: IO[bytes]) -> bytes:
    with named("read", "what a program complained about"):
        stderr.seek(0)
        return stderr.read(65536)


def _failure(error: type[FiskError], text: str) -> FiskError:
    return (NoSpace if os.strerror(errno.ENOSPC) in text else error)(text)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a tool, at once: it reads only, or what it writes is not wanted any more."""
    process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


@contextmanager
def serve_image(fd: int, driver: str) -> Iterator[str]:
    """Serve an open image read-only, with qemu-nbd; gives the path of the socket.

    The socket is in a directory only we can enter.  Raises ImageRefused where QEMU cannot open the image.
    """
    with scratch_directory() as folder, scratch_file() as stderr:
        path = os.path.join(folder, "nbd")
        arguments = (
            "--read-only",
            "--persistent",
            "--shared=2",
            f"--socket={path}",
            image_options(fd, driver),
        )
        process = subprocess.Popen(
            limited(SERVE, "qemu-nbd", *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=stderr, pass_fds=[fd], env=_environment(),
        )  # fmt: skip
        try:
            if not _listens(path, process):
                reason = _first_line(_complaint(stderr), process.returncode)
                raise ImageRefused(f"QEMU cannot serve it as {driver}: {reason}")
            yield path
        finally:
            _end(process)


def _listens(path: str, process: "subprocess.Popen[bytes]") -> bool:
    """Wait for the server; False when it ended instead.  Raises ImageRefused when nothing happens."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return True
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    raise ImageRefused(f"QEMU did not open it within {_READY_SECONDS:g} s")


def convert(source: str, target: Path, driver: str, options: Sequence[str], compress: bool,
            progress: Callable[[float], None]) -> None:  # fmt: skip
    """``qemu-img convert`` from a raw NBD export to a file; ``progress`` gets the share done, 0 to 1.

    Raises PoolError with QEMU's first line when it fails; whatever ``progress`` raises ends it.
    """
    command = [find("qemu-img"), "convert", "-p", "-f", "raw", "-O", driver]
    command += ["-c"] if compress else []
    for option in options:
        command += ["-o", option]
    with running([*command, source, str(target)]) as output:
        for share in _shares(output):
            progress(share)


def _next(output: IO[bytes]) -> bytes:
    with named("read", "what a program says"):
        return os.read(output.fileno(), 4096)


def _shares(output: IO[bytes]) -> Iterator[float]:
    """Read ``(12.34/100%)``, which carriage returns part, as it comes."""
    rest = b""
    while chunk := _next(output):
        *texts, rest = (rest + chunk).split(b"\r")
        for text in texts:
            if found := _SHARE.search(text):
                yield float(found[1]) / 100

# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: nobody warns unexpectedly, and neither process nor open file is left behind.

A WARNING of ``fisk_core`` that a test did not announce with ``expect_logs`` fails it, and so does one
announced that never came.
"""

import gc
import logging
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from fisk_core.engine import Engine

_GRACE_SECONDS = 2.0

ExpectLogs = Callable[[str], None]


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty FISK_HOME whose path is short enough for the sockets in it, however long the test's name."""
    with tempfile.TemporaryDirectory(prefix="fisk-") as directory:
        yield Path(directory)


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    with Engine.open(home) as opened:
        yield opened


class _Warnings(logging.Handler):
    """Collects what was logged and what may be."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.expected: list[str] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")

    def unexpected(self) -> list[str]:
        return [line for line in self.lines if not any(re.search(each, line) for each in self.expected)]

    def missing(self) -> list[str]:
        return [each for each in self.expected if not any(re.search(each, line) for line in self.lines)]


@pytest.fixture(autouse=True)
def logged_warnings() -> Iterator[_Warnings]:
    """Watch the log during a test."""
    handler, logger = _Warnings(), logging.getLogger("fisk_core")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    if unexpected := handler.unexpected():
        pytest.fail("logged without being announced with expect_logs:\n  " + "\n  ".join(unexpected))
    if missing := handler.missing():
        pytest.fail("announced with expect_logs, but never logged:\n  " + "\n  ".join(missing))


@pytest.fixture
def expect_logs(logged_warnings: _Warnings) -> ExpectLogs:
    """Call it with regular expressions of warnings that shall come in this test."""
    return logged_warnings.expected.append


@pytest.fixture(scope="session", autouse=True)
def frozen_imports() -> Iterator[None]:
    """Spare ``nothing_left_open`` the objects that stay anyway."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_left_open(frozen_imports: None) -> Iterator[None]:
    """Collect what a test left: a file or socket among it warns, and that fails the test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail a test that leaves a child running; children of wider fixtures were there before it."""
    before = _children()
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    while left := _children() - before:
        if time.monotonic() > deadline:
            pytest.fail("left running: " + ", ".join(map(_describe, sorted(left))))
        time.sleep(0.02)


@pytest.fixture(scope="session")
def session_mark() -> Iterator[bytes]:
    """A variable that every process has which was started by these tests, by whatever way."""
    name, value = "FISK_TEST_SESSION", str(uuid4())
    os.environ[name] = value
    yield f"{name}={value}".encode()
    del os.environ[name]


@pytest.fixture(scope="module", autouse=True)
def no_orphan_left(session_mark: bytes) -> Iterator[None]:
    """Fail a module that leaves a process which is nobody's child any more, and end it."""
    yield
    deadline = time.monotonic() + 5 * _GRACE_SECONDS
    while (left := _orphans(session_mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    told = ", ".join(map(_describe, sorted(left)))
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail(f"left running: {told}")


def _orphans(mark: bytes) -> set[int]:
    """Give the processes with our mark that were inherited by process 1."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            pid = int(path.parent.name)
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == "1" and mark in path.read_bytes().split(b"\0") and not _has_ended(pid):
                found.add(pid)
    return found


def _children() -> set[int]:
    """Give the ids of our children that have not ended."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found.update(map(int, path.read_text().split()))
    return {pid for pid in found if not _has_ended(pid)}


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return str(pid)
    return f"{pid} ({b' '.join(words).decode(errors='replace').strip()})"

# SPDX-License-Identifier: Apache-2.0
"""``fisk top``, in a real terminal and for programs."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.client.disks import connect
from fisk_core.testing.engine_conformance import MIB
from tests.commands import Command
from tests.fiskds import Fiskd, running

SECONDS = 60.0
_SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def fiskd() -> Iterator[Fiskd]:
    """A daemon with three attached Fisks, of which one is busy, one reads a little, and one does nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="fisk-") as folder,
        running(Path(folder)) as daemon,
        RemoteEngine.open(daemon.url) as engine,
    ):
        for name in ("busy", "idle", "a-name-that-is-much-too-long-for-a-terminal-of-eighty-columns"):
            engine.create(name, MIB)
            engine.attach(name)
        yield daemon


@pytest.fixture
def traffic(fiskd: Fiskd) -> Iterator[None]:
    """Write to the busy one, for as long as the test takes."""
    ending = threading.Event()

    def work() -> None:
        with RemoteEngine.open(fiskd.url) as engine:
            uris = engine.attachments(fisk="busy")[0].uris
        with connect(uris, None) as client:
            while not ending.wait(0.001):
                client.write(0, bytes(4096))
                client.read(0, 8192)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ending.set()
    thread.join()


@pytest.fixture
def fisk(fiskd: Fiskd, traffic: None) -> Command:
    command = Command(fiskd.home)
    command.environment |= {"TERM": "xterm-256color", "COLUMNS": "80"}
    return command


def test_json(fisk: Command) -> None:
    rows = json.loads(fisk("top", "--once", "--json", "--interval", "0.5"))
    found = {each["fisk"]: each for each in rows}
    assert len(found) == 3
    assert rows[0]["fisk"] == "busy"
    busy, idle = found["busy"], found["idle"]
    assert busy["read_iops"] > 0 < busy["write_iops"]
    assert busy["read_rate"] == pytest.approx(busy["read_iops"] * 8192)
    assert busy["write_rate"] == pytest.approx(busy["write_iops"] * 4096)
    assert 0 < busy["p50"] <= busy["p99"] < 10
    assert (busy["connections"], idle["connections"]) == (1, 0)
    assert (idle["read_iops"], idle["write_iops"], idle["p50"], idle["p99"]) == (0, 0, None, None)


def test_once_fits_eighty_columns(fisk: Command) -> None:
    shown = fisk("top", "--once", "--interval", "0.2", "--sort", "name")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown
    assert lines[0].startswith("3 in use, by name")
    assert lines[1].split() == ["FISK", "R/s", "W/s", "READ", "WRITE", "P50", "P99", "QUE", "CON", "MAP"]
    assert [line.split()[0][:6] for line in lines[2:]] == ["a-name", "busy", "idle"]


class Terminal:
    """A terminal of 80 columns with a command in it."""

    def __init__(self, fisk: Command, *words: str) -> None:
        self.fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        # The terminal is the command's own, so that Ctrl-C is a signal to it.
        command = ["setsid", "--ctty", *fisk.program, *words]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=fisk.environment
        )
        self.shown = bytearray()

    @property
    def text(self) -> str:
        """What was written, without what moves and colours it."""
        return _SEQUENCE.sub(b" ", bytes(self.shown)).decode()

    def wait_for(self, pattern: str) -> None:
        """Read until it shows something it has not shown before the last call."""
        start, deadline = len(self.text), time.monotonic() + SECONDS
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < deadline, self.text
            self.read()

    def read(self) -> bytes:
        if not select.select([self.fd], [], [], 0.1)[0]:
            return b""
        part = os.read(self.fd, 65536)
        self.shown += part
        return part

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def wait_end(self) -> int:
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self.read()
        while self.read():
            pass
        return self.process.returncode


@contextmanager
def terminal(fisk: Command, *words: str) -> Iterator[Terminal]:
    found = Terminal(fisk, *words)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
        found.process.wait()
        os.close(found.fd)
        os.close(found.theirs)


def assert_restored(found: Terminal) -> None:
    """The terminal is as it was: its modes, the usual screen, a cursor to be seen."""
    assert termios.tcgetattr(found.theirs) == found.before
    assert found.shown.rfind(b"\x1b[?1049l") > found.shown.rfind(b"\x1b[?1049h") >= 0
    assert found.shown.rfind(b"\x1b[?25h") > found.shown.rfind(b"\x1b[?25l") >= 0
    assert "Traceback" not in found.text


def test_keys_in_a_terminal(fisk: Command) -> None:
    with terminal(fisk, "top", "--interval", "0.2") as found:
        found.wait_for(r"3 in use, by IOPS(?s:.*)busy")
        found.press(b"n")
        found.wait_for(r"by name(?s:.*)a-name(?s:.*)busy(?s:.*)idle")
        found.press(b"x")
        found.press(b"l")
        found.wait_for(r"by latency(?s:.*)busy")
        found.press(b"q")
        assert found.wait_end() == 0
        assert_restored(found)


def test_ctrl_c_ends_it(fisk: Command) -> None:
    with terminal(fisk, "top") as found:
        found.wait_for("in use")
        found.press(b"\x03")
        assert found.wait_end() == 0
        assert_restored(found)


def test_sigterm_ends_it(fisk: Command) -> None:
    with terminal(fisk, "top") as found:
        found.wait_for("in use")
        found.process.send_signal(signal.SIGTERM)
        assert found.wait_end() == 128 + signal.SIGTERM
        assert_restored(found)


def test_a_daemon_that_is_gone_for_a_while(home: Path) -> None:
    with running(home) as daemon, RemoteEngine.open(daemon.url) as engine:
        engine.create("a", MIB)
        engine.attach("a")
        command = Command(home)
        command.environment["TERM"] = "xterm"
        with terminal(command, "top", "--interval", "0.1") as found:
            found.wait_for(r"1 in use(?s:.*)a ")
            daemon.restart()
            found.wait_for(r"1 in use(?s:.*)a ")
            found.press(b"q")
            assert found.wait_end() == 0
            assert_restored(found)

# SPDX-License-Identifier: Apache-2.0
"""Real daemons for tests: ``with running(home) as fiskd`` starts one and ends it, its workers too.

Options are sections of ``fisk.conf``: ``running(home, api={"max_page": 10}, DEFAULT={"host": "a"})``.
TCP ports are free ones, unless a test says otherwise.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

SECONDS = 30.0
Sections = Mapping[str, Mapping[str, Any]]


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path, timeout: float = SECONDS) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Fiskd:
    """A daemon of ``home``; it may be dead and started again."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    patience: float = SECONDS
    """seconds it may take to start or to end"""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def socket(self) -> Path:
        return self.home / "run" / "fiskd.sock"

    @property
    def url(self) -> str:
        """As the client takes it."""
        return f"unix://{self.socket}"

    @property
    def http_url(self) -> str:
        """As libraries take it that know unix sockets: the path is the host, quoted."""
        return f"http+unix://{quote(str(self.socket), safe='')}"

    @property
    def log_path(self) -> Path:
        return self.home / "fiskd.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def port(self) -> int:
        """Of TCP, where ``[api] listen`` has port 0."""
        return int((self.home / "run" / "fiskd.port").read_text())

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.spawn()
        self.wait_healthy()

    def spawn(self) -> None:
        """Start it."""
        environment = {**os.environ, "FISK_HOME": str(self.home), **self.environment}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fisk_core.daemon"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"fiskd ended with {self.process.returncode}:\n{self.log}")
            with suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/healthz", timeout=5)[0] == 200:
                    return
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = SECONDS,
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask through the unix socket; gives status, headers (names in lower case) and body."""
        connection = UnixConnection(self.socket, timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def kill(self) -> None:
        """End it at once (SIGKILL); its workers stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(self.patience)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Have it end in good order, its workers stay; gives its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(self.patience)

    def restart(self) -> None:
        """End it in good order if it runs, and start another."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.start()

    def drain(self) -> None:
        """End it and every worker."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.stop(signal.SIGUSR2) == 0, self.log


def configure(home: Path, sections: Sections) -> None:
    """Write ``fisk.conf``."""
    known: dict[str, Mapping[str, Any]] = {"nbd": {"listen": "127.0.0.1:0"}, **sections}
    lines = []
    for section, values in known.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    home.mkdir(parents=True, exist_ok=True)
    (home / "fisk.conf").write_text("\n".join(lines) + "\n")


@contextmanager
def running(
    home: Path,
    environment: Mapping[str, str] | None = None,
    *,
    patience: float = SECONDS,
    **sections: Any,
) -> Iterator[Fiskd]:
    """Run a daemon on ``home``, whose path must be short; at the end it is drained, dead or not."""
    configure(home, sections)
    fiskd = Fiskd(home, environment or {}, patience=patience)
    fiskd.start()
    try:
        yield fiskd
    finally:
        fiskd.drain()

# SPDX-License-Identifier: Apache-2.0
"""QEMU's own protocol, as far as tests move guests from one QEMU to another."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from tests.waiting import until

MIGRATION_SECONDS = 120


class Monitor:
    """A connection to the monitor of one QEMU; a context manager."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(MIGRATION_SECONDS)
        until(lambda: self._connected(path))
        self._lines = self._sock.makefile("rb")
        self._lines.readline()
        self.call("qmp_capabilities")

    def _connected(self, path: Path) -> bool:
        return path.exists() and self._sock.connect_ex(str(path)) == 0

    def call(self, command: str, **arguments: Any) -> Any:
        """Carry out a command; gives what it returns, raises AssertionError for an error."""
        self._sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def migration(self, *wanted: str) -> dict[str, Any]:
        """Wait until the migration is in one of these states; gives what QEMU tells of it."""
        deadline = time.monotonic() + MIGRATION_SECONDS
        while (told := self.call("query-migrate")).get("status") not in wanted:
            assert time.monotonic() < deadline, told
            time.sleep(0.02)
        return dict(told)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._sock.close()

# SPDX-License-Identifier: Apache-2.0
"""One command to a QEMU process through its monitor socket.

https://www.qemu.org/docs/master/interop/qmp-spec.html — a greeting, ``qmp_capabilities``, then commands;
lines of JSON.  Events may come in between.
"""

import json
import socket
from pathlib import Path
from typing import IO, Any

from fisk_core.dataplane import unixsocket
from fisk_core.errors import PoolError

_SECONDS = 30.0


def command(path: Path, name: str, **arguments: Any) -> Any:
    """Run one command and give its result; raises PoolError when it fails or nobody listens."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_SECONDS)
            unixsocket.connect(sock, path)
            with sock.makefile("rw", encoding="utf-8") as lines:
                lines.readline()
                _run(lines, "qmp_capabilities", {})
                return _run(lines, name, arguments)
    except (OSError, ValueError) as exc:
        raise PoolError(f"{name} through {path}: {exc}") from exc


def _run(lines: IO[str], name: str, arguments: dict[str, Any]) -> Any:
    lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    lines.flush()
    while line := lines.readline():
        reply = json.loads(line)
        if "return" in reply:
            return reply["return"]
        if "error" in reply:
            raise PoolError(f"{name}: {reply['error'].get('desc')}")
    raise PoolError(f"{name}: the process went away")

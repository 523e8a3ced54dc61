# SPDX-License-Identifier: Apache-2.0
"""All places in fisk_core that call the operating system, found in its source; and those that are left out.

What is looked at is everything that keeps or moves data: engine, catalog, maps, pools, services, and the
worker's part of the data plane.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from proof.faults.calls import CALLS
from proof.faults.injector import CORE, Site

OUTSIDE = {
    "access/": "access paths: programs and kernel devices around a worker; they keep no data",
    "api/": "the daemon's face to its clients",
    "cli/": "the command",
    "client/": "the command's way to a daemon",
    "daemon/": "the process around the engine",
    "jobs/": "the daemon's way to the services proved here",
    "supervision/": "processes and their notes; tests/functional kills and starves them",
    "testing/": "test suites for third parties",
    "files.py": "a shorter way to the same calls: those who use it are the sites",
    "dataplane/acceptor.py": "lets network clients in, holds no data",
    "dataplane/client": "the NBD client: a peer's side of the wire",
    "dataplane/control.py": "requests of one line to a worker",
    "dataplane/departure.py": "hand-over: what can fail is the peer; tests/functional/test_worker_*",
    "dataplane/descriptors.py": "the same",
    "dataplane/handover.py": "the same",
    "dataplane/launch.py": "starts processes",
    "dataplane/lines.py": "the control socket",
    "dataplane/parcel.py": "hand-over",
    "dataplane/passing.py": "hand-over",
    "dataplane/reception.py": "the acceptor's part of the handshake",
    "dataplane/relay.py": "the acceptor's TLS",
    "dataplane/routes.py": "the acceptor's names",
    "dataplane/renewal.py": "certificates for TLS",
    "dataplane/scope.py": "looks for systemd",
    "dataplane/succession.py": "hand-over",
    "dataplane/tls.py": "a peer's bytes once more",
    "dataplane/zygote.py": "forks workers",
}
"""files that are not looked at, and why"""

_PATH_METHODS = {
    "unlink": "os.unlink", "mkdir": "os.mkdir", "rename": "os.rename", "rmdir": "os.rmdir",
    "symlink_to": "os.symlink", "is_file": "os.stat", "is_dir": "os.stat", "is_socket": "os.stat",
    "stat": "os.stat", "glob": "os.scandir", "iterdir": "os.listdir", "read_text": "open",
    "read_bytes": "open", "write_text": "open", "write_bytes": "open",
}  # fmt: skip
_PATH_FUNCTIONS = {"isdir": "os.stat", "isfile": "os.stat", "exists": "os.stat", "lexists": "os.lstat"}
_TEMPORARY = {"TemporaryFile": "os.open", "TemporaryDirectory": "os.mkdir"}
_OURS = {
    "exists": "os.stat",
    "remove": "os.unlink",
    "matching": "os.scandir",
    "free_bytes": "os.statvfs",
}
"""in ``fisk_core.files``"""
_SCRATCH = {"scratch_directory": "os.mkdir", "scratch_file": "os.open"}
_STREAMS = {"file", "stream", "raw", "spool", "stderr"}
_STREAM_METHODS = {"read": "file.read", "readinto": "file.readinto", "write": "file.write"}


NEVER = {
    "dataplane/connection.py _receive socket.recv_into": "only under TLS; the call in receive() is the same",
    "blockmap/journal.py _take_over os.fstat": "behind want of space and an open, which fails before it does",
    "_linux.py drop_cached os.open": "of a block device, for an access path",
    "_linux.py drop_cached fcntl.ioctl": "the same",
    "pools/_files.py directories os.stat": "an entry of a directory knows what it is: nothing is called",
}
"""call sites (file, function, call) that no scenario reaches, and why"""


def is_outside(file: str) -> bool:
    """Say whether a file of fisk_core is not looked at."""
    return file.startswith(tuple(OUTSIDE))


def every() -> Iterator[Site]:
    """Give all call sites in the source that can be reached."""
    for path in sorted(Path(CORE).rglob("*.py")):
        name = str(path)[len(CORE) :]
        if is_outside(name):
            continue
        for function, node in _calls(ast.parse(path.read_text(encoding="utf-8")), ""):
            call = _called(node)
            if call and f"{name} {function} {call}" not in NEVER:
                yield Site(name, node.lineno, node.col_offset, call)


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    """Give every call below a node, with the name of the function that it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        yield from _calls(child, child.name if isinstance(child, ast.FunctionDef) else function)


def _called(node: ast.Call) -> str | None:
    """Give the function of the operating system that a call in the source comes down to."""
    function = node.func
    if isinstance(function, ast.Name):
        return "open" if function.id == "open" else _SCRATCH.get(function.id)
    if not isinstance(function, ast.Attribute):
        return None
    owner, name = ast.unparse(function.value), function.attr
    if owner in ("os", "fcntl", "mmap"):
        return f"{owner}.{name}" if f"{owner}.{name}" in CALLS else None
    if owner == "files":
        return _OURS.get(name)
    if owner == "_libc":
        return f"libc.{name}"
    if owner == "os.path":
        return _PATH_FUNCTIONS.get(name)
    if owner == "tempfile":
        return _TEMPORARY.get(name)
    return _of_method(node, owner, name)


def _of_method(node: ast.Call, owner: str, name: str) -> str | None:
    last = owner.rpartition(".")[2]
    if ("sock" in last and last != "unixsocket") or last in ("listener", "probe"):
        return f"socket.{name}" if f"socket.{name}" in CALLS else None
    if last in _STREAMS:
        return _STREAM_METHODS.get(name)
    if name == "exists" and not node.args:
        return "os.stat"
    if name == "open" and node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value:
        return "open"
    return _PATH_METHODS.get(name)

# SPDX-License-Identifier: Apache-2.0
"""Every request that libnbd can make illegal with its own checks off, and what a real worker answers.

Each cell says the error number: simple and structured replies, a live Fisk and a frozen one.  After all of it
the connection still works and the data is what it was.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.disks import USUAL, frozen, make_disk, make_pool, make_spec
from tests.servers import Served

SIZE = 8 << 20
MIB = 1 << 20
PYTHON = "/usr/bin/python3"
"""the interpreter that libnbd's bindings are packaged for"""
COMMANDS = ("read", "write", "flush", "trim", "cache", "zero", "status")
CHANGES = ("write", "trim", "zero")
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = (1 << bit for bit in range(5))
ALLOWED = {
    "read": FUA | DF,
    "write": FUA,
    "flush": 0,
    "trim": FUA,
    "cache": 0,
    "zero": FUA | NO_HOLE | FAST_ZERO,
    "status": REQ_ONE,
}
INVALID, FULL, DENIED = "EINVAL", "ENOSPC", "EPERM"
PAST_END = dict.fromkeys(COMMANDS, INVALID) | {"write": FULL, "zero": FULL, "flush": "ok"}
NO_LENGTH = dict.fromkeys(COMMANDS, INVALID) | {"flush": "ok"}
LEGAL = dict.fromkeys(COMMANDS, "ok")
ROWS: dict[str, tuple[int, int, dict[str, str]]] = {
    "whole": (0, 512, LEGAL),
    "last byte": (SIZE - 1, 1, LEGAL),
    "at the end": (SIZE, 512, PAST_END),
    "one byte over": (SIZE - 511, 512, PAST_END),
    "last block over": (SIZE - 4096, 4097, PAST_END),
    "far": (1 << 40, 512, PAST_END),
    "beyond 2^63": (1 << 63, 512, PAST_END),
    "wraps": ((1 << 64) - 256, 512, PAST_END),
    "wraps to the start": ((1 << 64) - 512, 512, PAST_END),
    "nothing": (0, 0, NO_LENGTH),
    "nothing at the end": (SIZE, 0, NO_LENGTH),
    "nothing beyond": (SIZE + 1, 0, PAST_END),
    "too large": (0, 33 * MIB, PAST_END | {"write": INVALID}),
    "largest of libnbd": (0, 64 * MIB, PAST_END | {"write": INVALID}),
}
"""name -> (offset, length, command -> error)"""

PROGRAM = """
import json, sys, nbd
uri, structured, rows = json.load(sys.stdin)
h = nbd.NBD()
h.set_strict_mode(0)
h.set_request_structured_replies(structured)
if structured:
    h.add_meta_context("base:allocation")
h.connect_uri(uri)
calls = {
    "read": lambda at, n, f: h.pread(n, at, flags=f),
    "write": lambda at, n, f: h.pwrite(bytes(n), at, flags=f),
    "flush": lambda at, n, f: h.flush(flags=f),
    "trim": lambda at, n, f: h.trim(n, at, flags=f),
    "cache": lambda at, n, f: h.cache(n, at, flags=f),
    "zero": lambda at, n, f: h.zero(n, at, flags=f),
    "status": lambda at, n, f: h.block_status(n, at, lambda *_: 0, flags=f),
}
found = []
for command, offset, length, flags in rows:
    try:
        calls[command](offset, length, flags)
        found.append("ok")
    except nbd.Error as exc:
        found.append(exc.errno)
print(json.dumps([found, h.aio_is_ready(), len(h.pread(512, 0))]))
"""

Cell = tuple[str, int, int, int]


@pytest.fixture(scope="module", autouse=True)
def has_libnbd() -> None:
    if (
        not Path(PYTHON).exists()
        or subprocess.run([PYTHON, "-c", "import nbd"], capture_output=True).returncode
    ):
        pytest.skip("python3-libnbd is not installed")


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A live Fisk and a frozen one."""
    folder = tmp_path_factory.mktemp("m")
    pool = make_pool(folder / "pool")
    with make_disk(pool, SIZE, USUAL) as disk:
        spec = disk.spec
    with ExitStack() as stack:
        found = {}
        for name, each in (("live", make_spec(pool, SIZE, USUAL)), ("frozen", frozen(spec))):
            (folder / name).mkdir()
            found[name] = stack.enter_context(Served(each, folder / name)).uri
        yield found


def ask(uri: str, structured: bool, cells: list[Cell]) -> list[str]:
    """Send the requests one after the other; gives their errors, once the connection proved alive."""
    told = json.dumps([uri, structured, cells])
    done = subprocess.run([PYTHON, "-c", PROGRAM], input=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, ready, length = json.loads(done.stdout)
    assert (ready, length) == (True, 512)
    return list(found)


def matrix(state: str, structured: bool) -> dict[Cell, str]:
    """Give what each cell is to be answered with."""
    cells: dict[Cell, str] = {}
    for offset, length, errors in ROWS.values():
        for command in COMMANDS:
            cells[command, offset, length, 0] = errors[command]
    for command, allowed in ALLOWED.items():
        for flag in (1 << bit for bit in range(16)):
            # Where DF was not offered (simple replies) it is harmless: there is nothing to fragment.
            cells[command, 0, 4096, flag] = "ok" if flag & allowed else INVALID
    for command, offset, length, flags in cells:
        cell = command, offset, length, flags
        nonsense = flags & ~ALLOWED[command] or (command == "write" and length > 32 * MIB)
        if state == "frozen" and command in CHANGES and not nonsense:
            cells[cell] = DENIED
        if command == "status" and not structured:
            cells[cell] = INVALID  # no context could be agreed on
    return cells


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("state", ["live", "frozen"])
def test_every_cell(uris: dict[str, str], state: str, structured: bool) -> None:
    wanted = matrix(state, structured)
    found = ask(uris[state], structured, list(wanted))
    wrong = {
        cell: (got, must) for (cell, must), got in zip(wanted.items(), found, strict=True) if got != must
    }
    assert not wrong

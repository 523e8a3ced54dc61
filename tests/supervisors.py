# SPDX-License-Identifier: Apache-2.0
"""Supervisors for tests, and what they must not leave."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from fisk_core import locks
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.model import Attachment
from fisk_core.supervision import Supervisor
from tests.waiting import PATIENCE


def configure(home: Path, text: str = "", *, listen: str = "", linger: float = 0.0) -> None:
    """Write fisk.conf; ``text`` are further lines, of the group DEFAULT at first."""
    home.mkdir(exist_ok=True)
    (home / "fisk.conf").write_text(
        f"[nbd]\nlisten = {listen}\n[workers]\nreader_linger = {linger}\n[DEFAULT]\n{text}\n"
    )


@contextmanager
def supervising(engine: Engine) -> Iterator[Supervisor]:
    """Supervise, and end everything at the end; the port all homes have by default is left to others."""
    nbd = engine.settings.nbd
    mine = replace(nbd, listen="") if nbd == type(nbd)() else nbd
    with Supervisor(engine, replace(engine.settings, nbd=mine)) as supervisor:
        try:
            yield supervisor
        finally:
            supervisor.drain()


def connected(attachment: Attachment, which: int = 0) -> NbdClient:
    return NbdClient.connect(attachment.uris[which])


def reconnected(attachment: Attachment) -> NbdClient:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return connected(attachment)
        except FiskError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def processes_of(home: Path) -> list[int]:
    """Give the processes started with this FISK_HOME in their environment, this one excepted."""
    wanted = f"FISK_HOME={home}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def leavings(engine: Engine) -> list[str]:
    """Give the sockets, marks, routes and held locks below a home: with nothing attached there are none."""
    run = engine.home.run
    kinds = ("*-*.ctl", "*.nbd", "*.ro", "*.worker", "exports/*", "access/*")
    found = [path.name for kind in kinds for path in run.glob(kind)]
    held = [path.name for path in engine.home.lock_path.glob("*-*.lock") if locks.is_held(path)]
    return sorted(found + held)

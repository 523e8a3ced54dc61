# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.sockets ORDER``: conversations by the thousand with a real worker and acceptor.

Several at a time, over a unix socket and over TCP, where clients leave in the middle, say nothing, one byte
at a time, or rubbish under TLS.  After each batch a client that behaves must be served at once; memory and
descriptors of both processes stay bounded; in the end the data is what it was.
"""

import json
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fisk_core.dataplane import acceptor, routes
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.launch import Worker, start_worker
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import TlsOptions
from proof.hostile.grammar import MAX_SENT, World, conversation
from proof.hostile.inside import Order, mutate, seeds_in
from proof.hostile.judge import CHANGES, Asked, Broken, Judge, Offer, Shadow, Verdict, require
from proof.hostile.target import NAME, SIZE, TOKEN, Scene, scene, try_receive, try_send

BATCH = 24
ANSWER_SECONDS = 20.0
"""in which a client that behaves must have been served; generous, for the machine may be busy"""
_LINGERING = 60
_LOOKS = 0.004  # seconds without news after which the judge is asked whether anything is missing
Address = str | tuple[str, int]


@dataclass
class Report:
    """What came of it."""

    conversations: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    """bytes of memory, of the worker or the acceptor, at most"""
    descriptors: int = 0
    """open in both at the end that were not at the beginning"""
    slowest: float = 0.0
    """seconds that a client which behaves waited, at most"""
    broken: str = ""
    input: str = ""


@dataclass
class Field:
    """The processes under attack."""

    scene: Scene
    worker: Worker
    acceptors: "list[subprocess.Popen[str]]"
    unix: str
    tcp: tuple[str, int]
    tls: tuple[str, int]

    @property
    def pids(self) -> list[int]:
        return [self.worker.pid, *(each.pid for each in self.acceptors)]

    def check_alive(self) -> None:
        for each in self.acceptors:
            require(each.poll() is None, f"the acceptor ended with {each.poll()}")
        require(os.waitid(os.P_PID, self.worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None,
                "the worker ended")  # fmt: skip


@contextmanager
def field_of(home: Path) -> Iterator[Field]:
    """Start a worker and two acceptors, one of them with TLS."""
    from tests.nbd_servers import make_certificates

    with ExitStack() as stack:
        made = stack.enter_context(scene(home))
        (exports := home / "x").mkdir()
        make_certificates(home / "tls")
        lock = stack.enter_context(made.engine.acquire(NAME, True))
        options = ServeOptions(unix=str(home / "n"), control=str(home / "c"), export=NAME, announce=True)
        spec = made.engine.disk_spec(NAME, False)
        worker = stack.enter_context(start_worker(spec, lock_fd=lock.fd, options=options))
        routes.publish(exports, TOKEN, routes.Route(str(home / "c"), False))
        acceptors, addresses = [], []
        for number, tls in enumerate((None, TlsOptions(str(home / "tls")))):
            control = str(home / f"a{number}")
            process, address = acceptor.start(
                acceptor.AcceptorOptions(("127.0.0.1", 0), str(exports), control, tls)
            )
            stack.callback(_end, process)
            acceptors.append(process)
            addresses.append(address)
        yield Field(made, worker, acceptors, str(home / "n"), *addresses)
    with scene_of(home) as engine_scene:
        engine_scene.check_sentinel()


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.wait(20)
